"""The networks that a study can name.

Builders return MONAI's network with instance norm; :func:`build_network` then gives every layer
the study's norm, and a bank of them where the study keeps one set per modality.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from common.catalogue import Catalogue, Entry
from common.modality.bank import put_banks, replace_norms
from common.networks.monai_networks import build_basic_unet, build_dynunet, build_unet
from common.networks.rows import COMPOSED
from common.networks.transfer import TransferUNet, take_encoder
from common.networks.whole import WHOLE
from common.seeds import seed_of
from common.study.networks import BasicUNet, DynUNet, UNet
from common.study.study import Study

NETWORKS = Catalogue(
    "network",
    (
        Entry(
            UNet,
            build_unet,
            "residual U-Net with strided convolutions",
            "Kerfoot et al. 2019, doi:10.1007/978-3-030-12029-0_40; MONAI UNet",
        ),
        Entry(
            BasicUNet,
            build_basic_unet,
            "plain U-Net with four poolings",
            "Falk et al. 2019, doi:10.1038/s41592-018-0261-2; MONAI BasicUNet",
        ),
        Entry(
            DynUNet,
            build_dynunet,
            "the network of nnU-Net",
            "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; MONAI DynUNet",
        ),
        *COMPOSED,
        *WHOLE,
    ),
)


def build_network(
    study: Study,
    encoder: Mapping[str, Tensor] | None = None,
    told: Callable[[str], None] = lambda _sentence: None,
) -> nn.Module:
    """Build the study's network, its weights drawn from the study's seed.

    Args:
        study: Names the network, its norm, and what is kept per modality.
        encoder: State dict of a classifier from which the network's encoder starts.
        told: Called with how much of it was taken.

    Returns:
        A network (B, C, *space) -> (B, classes, *space); the global random state is left
        as it was.

    Raises:
        InputError: If what is given for the encoder does not fit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(study.seed, "initial weights"))
        network: nn.Module = NETWORKS.build(
            study.network,
            dimensions=study.dimensions,
            channels=study.channels,
            classes=len(study.classes),
        )
    replace_norms(network, study.network.norm, study.dimensions)
    if encoder is not None and isinstance(network, TransferUNet):
        told(take_encoder(network.encoder, encoder))
    if study.sharing.norm == "per_modality":
        put_banks(network, tuple(sorted(study.modalities)))
    return network
