"""Small federations on phantoms for tests that train for real."""

from collections.abc import Sequence
from pathlib import Path

from client.profile import Profile, load_profile
from common.study.load import parse_study
from common.study.study import Study
from common.tensors import Weights, read_tensors
from deploy.phantoms import PhantomPlan, SitePlan, write_phantoms
from deploy.simulation.simulate import start_run
from server.journal import Journal

SMALL = """
name: small
dimensions: 2
labels: [liver, spleen]
modalities:
  ct: {{intensity: hounsfield, window: [-160, 240]}}
  mr: {{intensity: arbitrary}}
network: {{name: unet, channels: [4, 8], strides: [2], residual_units: 1, norm: {norm}}}
training: {{steps: 3, batch: 2, patch: [32, 32], learning_rate: 4e-3, optimizer: {optimizer}}}
federation: {{rounds: {rounds}, minimum_sites: {minimum}, minimum_sites_per_modality: {each},
             answer_seconds: {seconds}, method: {method}}}
sharing: {{norm: {sharing}}}
evaluation: {{validation: 0.2, test: 0.2, local: {local}}}
"""

DEFAULTS = {
    "norm": "group", "optimizer": "adamw", "rounds": 3, "minimum": 1, "each": 1,
    "seconds": 600.0, "sharing": "per_modality", "local": "false", "method": "fedavg",
}  # fmt: skip


def small_study(**changes: object) -> Study:
    """Return a 2-D study that trains in seconds; see ``SMALL`` for what can be changed."""
    return parse_study(SMALL.format(**{**DEFAULTS, **changes}))


def phantom_sites(
    folder: Path, *, modalities: Sequence[str] = ("ct", "ct", "mr", "mr"), cases: int = 5
) -> list[Path]:
    """Write phantom data sets and return the profiles."""
    numbers: dict[str, int] = {}
    sites = []
    for modality in modalities:
        numbers[modality] = numbers.get(modality, 0) + 1
        sites.append(
            SitePlan(name=f"{modality}-{numbers[modality]}", modality=modality, cases=cases)
        )
    plan = PhantomPlan(sites=tuple(sites), dimensions=2, labels=("liver", "spleen"),
                       difficulty="easy", seed=3, size=32)  # fmt: skip
    return [one_thread(path) for path in write_phantoms(folder, plan)]


def one_thread(profile: Path) -> Path:
    """Pin a site to one thread, so that every way to run it gives the same bits."""
    profile.write_text(profile.read_text() + "threads: 1\n")
    return profile


def built(study: Study, profiles: Sequence[Path], folder: Path) -> Path:
    """Build a run's folder for these sites."""
    loaded: list[tuple[Profile, Path]] = [(load_profile(path), path) for path in profiles]
    start_run(study, loaded, folder)
    return folder


def last_weights(folder: Path) -> Weights:
    """Read the weights that a finished run ended with."""
    journal = Journal(folder)
    return read_tensors(journal.model(len(journal.closed_rounds())))


def same_bits(one: Weights, two: Weights) -> bool:
    """Whether two sets of weights are equal to the last bit."""
    return list(one) == list(two) and all(one[n].tobytes() == two[n].tobytes() for n in one)
