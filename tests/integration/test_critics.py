"""A federation whose sites each train against a critic of their own."""

from dataclasses import replace

import pytest

from common.study.schemes import SegAN
from common.tensors import read_tensors
from deploy.cli.describe import cost_of, in_words
from deploy.simulation.simulate import run_simulation
from server.journal import Journal
from tests.support.federations import built, last_weights, same_bits, small_study

SITES = ("ct-1", "ct-2", "mr-1", "mr-2")


def study_of(**changes):
    study = small_study(local="true", **changes)
    scheme = SegAN(width=4, layers=2)
    return replace(study, training=replace(study.training, scheme=scheme))


@pytest.fixture(scope="module")
def finished(sites, tmp_path_factory):
    folder = built(study_of(), sites, tmp_path_factory.mktemp("run") / "run")
    run_simulation(folder)
    return folder


def critics_of(folder, part="federated"):
    """Return the critic of each site after the last round."""
    found = {}
    for site in SITES:
        (path,) = folder.glob(f"sites/{site}/*/{part}/state-00003.safetensors")
        held = {n: a for n, a in read_tensors(path).items() if n.startswith("critic/critic/")}
        assert held
        found[site] = held
    return found


def test_every_site_takes_part_and_keeps_a_critic_of_its_own(finished):
    rounds = Journal(finished).closed_rounds()
    critics = critics_of(finished)

    assert [[a.report.site for a in r.accepted] for r in rounds] == [list(SITES)] * 3
    assert not any(same_bits(critics[a], critics[b]) for a in SITES for b in SITES if a < b)
    alone = critics_of(finished, "alone")
    assert not any(same_bits(alone[site], critics[site]) for site in SITES)


def test_nothing_of_a_critic_is_where_the_hub_works(finished, sites, tmp_path):
    plain = built(small_study(local="true"), sites, tmp_path / "plain")
    initial = read_tensors(plain / "initial.safetensors")

    assert list(last_weights(finished)) == list(initial)
    assert same_bits(read_tensors(finished / "initial.safetensors"), initial)
    for path in finished.rglob("*"):
        if path.is_file() and "sites" not in path.relative_to(finished).parts:
            assert b"initial_conv" not in path.read_bytes(), path.name


def test_the_same_study_gives_the_same_bits(finished, sites, tmp_path):
    again = built(study_of(), sites, tmp_path / "run")
    run_simulation(again)

    assert same_bits(last_weights(again), last_weights(finished))


def test_a_study_is_described_with_its_critic():
    study, plain = study_of(), small_study()
    cost, less = cost_of(study), cost_of(plain)

    assert cost == less  # the critic crosses no wire; of a step the least is told, without it
    assert "a critic tells apart, which stays at each site (weight 1)" in in_words(study, cost)
    assert "critic" not in in_words(plain, less)
