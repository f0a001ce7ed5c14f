"""The strategy that learns the choice: DiNTS, its paths and operations averaged like weights.

For each trial the whole space is trained as a federation, the sites moving paths and operations
in turn with the network's weights (:class:`common.study.dints.DintsSearch`), and read out; what
was found is then trained from the start like any other candidate. One trial after another asks
for less memory, so that the found networks are of several sizes.

Source: He et al. DiNTS. CVPR 2021. arXiv:2103.15954.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.errors import DamagedError, InputError, RunError
from common.networks import build_network
from common.networks.dints import SearchedNetwork
from common.networks.view import NamedArrays
from common.sealed import MISSING, read_sealed, write_sealed
from common.study.dints import DintsSearch
from common.study.study import Study
from common.study.typed import as_typed
from common.tensors import read_tensors
from deploy.search.candidate import attempt
from deploy.search.evaluate import outcome_of, parameters_of, proxy
from deploy.search.search import Search
from deploy.search.space import Value, in_words, path_point, refusal
from deploy.search.trial import Trial
from server.journal import Journal

FILE = "trials.json"
SPACE = "space"
STEP = 4.0  # from one trial's memory weight to the next one's


def learnt(search: Search) -> list[Trial]:
    """Search the space, train what was found, until enough trials were trained.

    Raises:
        InputError: If a loss is to be searched, or the space cannot be trained.
    """
    if search.plan.over != "network":
        raise InputError("--strategy dints: finds networks only; leave --over network")
    trials = _read(search.folder / FILE)
    while len(trials) < 2 * search.trials:
        number = len(trials) + 1
        if number % 2:
            trial = _searched(search, number)
        else:
            point = _found(search, number - 1)
            trial = attempt(search, number, point, trials)
        trials.append(trial)
        _write(search.folder / FILE, trials)
        search.notice.done(trial)
    return trials


def space_at(study: Study, number: int) -> Study:
    """Return the study whose network is the space, as the trial of a number searches it."""
    given = study.network
    space = given if isinstance(given, DintsSearch) else DintsSearch(norm=given.norm)
    weight = space.memory_weight * STEP ** (number // 2)
    return replace(study, network=replace(space, memory_weight=weight))


def _searched(search: Search, number: int) -> Trial:
    study = space_at(proxy(search.study, search.plan.rounds), number)
    if why := refusal(study):
        raise InputError(f"the space of DiNTS: {why}")
    words = in_words(study, "network")
    search.notice.doing(f"trial {number}: {words}")
    folder = search.trainer.train(
        study,
        number,
        lambda curve: search.notice.doing(f"trial {number}: {words}: round {len(curve)}"),
    )
    return Trial(
        number=number,
        state="searched",
        point={SPACE: number},
        words=words,
        why="its paths are the next trial's",
        outcome=outcome_of(folder, study, parameters_of(study)),
    )


def _found(search: Search, number: int) -> Mapping[str, Value]:
    """Read out of a trained space what was found in it, as a point."""
    study = space_at(proxy(search.study, search.plan.rounds), number)
    folder = search.trainer.folder(study, number)
    network = build_network(study)
    if not isinstance(network, SearchedNetwork) or not isinstance(study.network, DintsSearch):
        raise RunError(f"{folder}: is no run of a space")
    journal = Journal(folder)
    weights = read_tensors(journal.whole_model(len(journal.closed_rounds())))
    NamedArrays(network, study).write(weights)
    paths, operations = network.decoded()
    return path_point(study.network, paths, operations)


def _read(file: Path) -> list[Trial]:
    try:
        held: Any = read_sealed(file, file=FILE, run=None)
    except DamagedError as error:
        if error.what == MISSING:
            return []
        raise
    found, problems = as_typed(list[Trial], held)
    if found is None:
        raise RunError(f"{file}: {problems[0][1]}; go on with the release that wrote it")
    return found


def _write(file: Path, trials: list[Trial]) -> None:
    write_sealed(file, [asdict(trial) for trial in trials], file=FILE, run="search")
