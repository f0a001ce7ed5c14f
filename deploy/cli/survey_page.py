"""The page that maps the survey's methods to what a study can name, from the catalogues.

Run as ``python -m deploy.cli.survey_page docs/survey.md``; a test holds that the file in the
repository is what this writes, and that each test that it names is there.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.catalogue import Entry
from common.files import write_text

NETWORK, LOSS, SCHEME = "network", "loss", "scheme"
ALL_NETWORKS, ALL_LOSSES = (
    "tests/conformance/test_networks.py",
    "tests/conformance/test_losses.py",
)
GOLDEN, EXPLAINED = "tests/golden/test_networks.py", "tests/unit/client/test_explain.py"
DETECTING, TRANSFER = "tests/golden/test_detecting.py", "tests/golden/test_transfer.py"
SEARCHED, DINTS = "tests/integration/test_search.py", "tests/golden/test_dints.py"
ADVERSARY = "tests/unit/client/test_adversary.py"

HEAD = """\
# The survey's methods, and where they are

Written by `python -m deploy.cli.survey_page docs/survey.md`; do not edit it.

Wang et al., "Medical image segmentation using deep learning: A survey", IET Image Processing
2022, doi:10.1049/ipr2.12419, names the methods below. Each that has an entry is chosen by that
name in a study (`network: NAME`, `loss: NAME`, `training: {scheme: NAME}`), trains in a
federation of CT and MRI sites with norms kept by modality, and is held to the tests that are
named; all networks to `tests/conformance/test_networks.py`, all losses to
`tests/conformance/test_losses.py`. What is not there yet says so.
"""


@dataclass(frozen=True)
class Line:
    """One method of the survey.

    Attributes:
        words: What the survey says.
        kind: ``network``, ``loss`` or ``scheme``, whose catalogue has its source; else empty.
        entry: Name of it, or where it is; empty where it is not there yet.
        test: Beside the one that all are held to.
        source: Where no catalogue has it.
    """

    words: str
    kind: str = ""
    entry: str = ""
    test: str = ""
    source: str = ""


SECTIONS: Mapping[str, tuple[Line, ...]] = {
    "Backbones": (
        Line("U-Net, the baseline as it is listed", NETWORK, "survey_unet", GOLDEN),
        Line("U-Net with residual units and strides", NETWORK, "unet"),
        Line("U-Net with four poolings", NETWORK, "basic_unet"),
        Line("3D U-Net with three poolings", NETWORK, "unet_3d", GOLDEN),
        Line("V-Net: residual, four down-samplings", NETWORK, "vnet", GOLDEN),
        Line("Res-UNet: a shortcut in every block", NETWORK, "residual_unet"),
        Line("recurrent network: R2U-Net", NETWORK, "r2unet", GOLDEN),
        Line("recurrent network: global-local cross attention", NETWORK, "glca_unet"),
        Line("LSTM on the skips: BCDU-Net", NETWORK, "bcdu_net", GOLDEN),
        Line("LSTM across slices", NETWORK, "slice_lstm", GOLDEN),
        Line("cascade from coarse to fine", NETWORK, "coarse_to_fine"),
        Line("cascade of detection, then segmentation", NETWORK, "detect_then_segment",
             DETECTING),
        Line("H-DenseUNet: 2-D and 3-D features fused", NETWORK, "h_dense_unet"),
        Line("light hybrid network, 3-D depthwise separable", NETWORK, "light_hybrid"),
        Line("pseudo-3D convolutions", NETWORK, "pseudo_3d"),
        Line("over-complete network: Ki-Net", NETWORK, "ki_net"),
        Line("over-complete and U-Net together: KiU-Net", NETWORK, "kiu_net"),
        Line("GAN: SegAN, a critic that stays at the site", SCHEME, "segan"),
        Line("nnU-Net's network", NETWORK, "dynunet"),
        Line("MedNeXt with kernels grown from smaller ones", NETWORK, "mednext", GOLDEN),
        Line("transformer: Swin UNETR", NETWORK, "swin_unetr"),
        Line("encoder trained on natural images, inflated to 3-D", NETWORK, "pretrained_unet",
             TRANSFER),
    ),
    "Blocks, attention and several scales": (
        Line("dense connections in each block", NETWORK, "dense_unet"),
        Line("U-Net++ with deep supervision", NETWORK, "unet_plus_plus"),
        Line("U-Net++ pruned", "", "common.networks.nested.prune", GOLDEN,
             "Zhou et al. 2018, arXiv:1807.10165"),
        Line("Inception: kernels side by side", NETWORK, "inception_unet"),
        Line("depthwise separable convolution", NETWORK, "depthwise_unet"),
        Line("local spatial attention: attention gates", NETWORK, "attention_unet", GOLDEN),
        Line("channel attention: squeeze and excitation", NETWORK, "se_unet", GOLDEN),
        Line("mixed attention: scSE", NETWORK, "scse_unet", GOLDEN),
        Line("mixed attention: CBAM", NETWORK, "cbam_unet", GOLDEN),
        Line("non-local attention", NETWORK, "nonlocal_unet", GOLDEN),
        Line("pyramid pooling", NETWORK, "psp_unet"),
        Line("dense atrous convolution and residual multi-kernel pooling", NETWORK, "ce_net"),
        Line("atrous spatial pyramid pooling", NETWORK, "aspp_unet"),
        Line("hybrid dilated convolution, rates in a saw-tooth", NETWORK, "hdc_unet", GOLDEN),
        Line("atrous pyramid pooling with non-local attention", NETWORK, "aspp_nonlocal_unet"),
        Line("graph convolution", NETWORK, "graph_unet", GOLDEN),
        Line("up-sampling: deconvolution, interpolation, un-pooling, pixel shuffle", NETWORK,
             "composable_unet", GOLDEN),
    ),
    "Losses": (
        Line("cross entropy", LOSS, "cross_entropy"),
        Line("cross entropy weighted by class", LOSS, "weighted_cross_entropy"),
        Line("cross entropy weighted by distance", LOSS, "distance_weighted_cross_entropy",
             "tests/golden/test_loss_distances.py"),
        Line("Dice", LOSS, "dice", "tests/golden/test_losses.py"),
        Line("generalised Dice", LOSS, "generalized_dice", "tests/golden/test_losses.py"),
        Line("Tversky", LOSS, "tversky", "tests/golden/test_losses.py"),
        Line("boundary", LOSS, "boundary", "tests/golden/test_loss_distances.py"),
        Line("exponential logarithmic", LOSS, "exponential_logarithmic",
             "tests/golden/test_losses.py"),
        Line("focal", LOSS, "focal", "tests/golden/test_losses.py"),
        Line("unified focal", LOSS, "unified_focal", "tests/golden/test_losses.py"),
        Line("soft centre-line Dice", LOSS, "cldice", "tests/golden/test_losses.py"),
        Line("Hausdorff distance", LOSS, "hausdorff", "tests/golden/test_loss_distances.py"),
        Line("Dice and cross entropy", LOSS, "dice_ce", "tests/golden/test_losses.py"),
        Line("weighted sums whose weights change while a network trains", LOSS, "sum",
             "tests/golden/test_losses.py"),
        Line("deep supervision of any loss", "", "common.losses.deep.deep_loss", ALL_NETWORKS,
             "Lee et al. 2015, arXiv:1409.5185"),
        Line("loss search", "", "fedseg search --over loss", SEARCHED,
             "weights by softmax; Akiba et al. 2019, arXiv:1907.10902"),
    ),
    "What a network sees": (
        Line("shape-attentive network: SAUNet", NETWORK, "sa_unet"),
        Line("guided back-propagation", "", "fedseg explain", EXPLAINED,
             "Springenberg et al. 2015, arXiv:1412.6806"),
        Line("Grad-CAM and Seg-Grad-CAM", "", "fedseg explain", EXPLAINED,
             "Selvaraju et al. 2017, arXiv:1610.02391; Vinogradova et al. 2020, "
             "arXiv:2002.11434"),
        Line("maps of every attention", "", "fedseg explain", EXPLAINED,
             "each network's own"),
    ),
    "Search": (
        Line("architecture search: space, strategy, evaluation", "", "fedseg search", SEARCHED,
             "Elsken et al. 2019, arXiv:1808.05377"),
        Line("differentiable search: DiNTS", NETWORK, "dints_search", DINTS),
        Line("what a differentiable search found", NETWORK, "dints", DINTS),
    ),
}  # fmt: skip


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_lines()]) + "\n"


def _lines() -> Iterator[str]:
    from client.schemes import SCHEMES
    from common.losses import LOSSES
    from common.networks import NETWORKS

    known: dict[str, Mapping[str, Entry]] = {NETWORK: NETWORKS, LOSS: LOSSES, SCHEME: SCHEMES}
    held_to = {NETWORK: ALL_NETWORKS, LOSS: ALL_LOSSES, SCHEME: ADVERSARY}
    for title, lines in SECTIONS.items():
        yield f"## {title}"
        yield ""
        yield "| the survey's | entry | source | test |"
        yield "|---|---|---|---|"
        for line in lines:
            source = known[line.kind][line.entry].source if line.kind else line.source
            test = line.test or held_to.get(line.kind, "")
            entry = f"`{line.entry}`" if line.entry else "not there yet"
            yield f"| {line.words} | {entry} | {source} | {f'`{test}`' if test else ''} |"
        yield ""


def run(arguments: list[str]) -> None:
    """Write the page to the file that is named."""
    write_text(Path(arguments[0]), page())


if __name__ == "__main__":
    run(sys.argv[1:])
