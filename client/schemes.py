"""How a site can train, by name."""

import torch

from client.adversary import Adversary
from common.catalogue import Catalogue, Entry
from common.study.schemes import SegAN, Supervised
from common.study.study import Study


def build_adversary(study: Study, *, device: torch.device, seed: int) -> Adversary | None:
    """Build what trains against the network in a study; None where nothing does."""
    adversary: Adversary | None = SCHEMES.build(
        study.training.scheme, study=study, device=device, seed=seed
    )
    return adversary


def build_none(_config: Supervised, *, study: Study, device: torch.device, seed: int) -> None:
    """Return that nothing trains against the network."""
    del study, device, seed


SCHEMES = Catalogue(
    "scheme",
    (
        Entry(
            Supervised,
            build_none,
            "the loss alone",
            "McMahan et al. 2017, arXiv:1602.05629, algorithm 1",
        ),
        Entry(
            SegAN,
            Adversary,
            "the loss, plus the distance that a critic finds; it stays at the site",
            "Xue et al. 2018, arXiv:1706.01805",
        ),
    ),
)
