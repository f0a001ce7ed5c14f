"""The rows of the survey that are a composition: each with its source."""

from common.catalogue import Entry
from common.networks.composable import build_composable
from common.study import composable as rows

_ROWS = (
    (rows.ComposableUNet, "U-Net whose block, attention, bottom and up-sampling are chosen",
     "Ronneberger et al. 2015, arXiv:1505.04597"),
    (rows.SurveyUNet, "the survey's U-Net baseline, as it is listed there",
     "Wang et al. 2022, doi:10.1049/ipr2.12419; Ronneberger et al. 2015, arXiv:1505.04597"),
    (rows.UNet3D, "3D U-Net: three poolings, channels doubled before each",
     "Cicek et al. 2016, arXiv:1606.06650"),
    (rows.ResidualUNet, "U-Net of residual blocks", "Zhang et al. 2018, arXiv:1711.10684"),
    (rows.DenseUNet, "U-Net of densely connected blocks",
     "Huang et al. 2017, arXiv:1608.06993"),
    (rows.InceptionUNet, "U-Net of Inception blocks", "Szegedy et al. 2015, arXiv:1409.4842"),
    (rows.DepthwiseUNet, "U-Net of depthwise separable convolutions",
     "Howard et al. 2017, arXiv:1704.04861"),
    (rows.R2UNet, "R2U-Net: recurrent residual convolutions",
     "Alom et al. 2018, arXiv:1802.06955"),
    (rows.LightHybridUNet, "every 3-D convolution separated along depth and by channel",
     "Zhang et al. 2019, doi:10.24963/ijcai.2019/593"),
    (rows.Pseudo3DUNet, "convolutions within slices, then across them",
     "Qiu et al. 2017, arXiv:1711.10305"),
    (rows.AttentionUNet, "skips gated by the coarser map, deeply supervised",
     "Oktay et al. 2018, arXiv:1804.03999"),
    (rows.SEUNet, "skips weighed by channel", "Hu et al. 2018, arXiv:1709.01507"),
    (rows.SCSEUNet, "skips weighed by channel and by place",
     "Roy et al. 2018, arXiv:1803.02579"),
    (rows.CBAMUNet, "skips weighed by channel, then by place",
     "Woo et al. 2018, arXiv:1807.06521"),
    (rows.NonLocalUNet, "self-attention over all places at the bottom",
     "Wang et al. 2018, arXiv:1711.07971; Wang et al. 2020, arXiv:1812.04103"),
    (rows.GLCAUNet, "global-local cross attention at the bottom",
     "Zhu et al. 2022, arXiv:2205.02151"),
    (rows.PSPUNet, "pyramid pooling at the bottom", "Zhao et al. 2017, arXiv:1612.01105"),
    (rows.CENet, "CE-Net: dense atrous convolution, residual multi-kernel pooling",
     "Gu et al. 2019, arXiv:1903.02740"),
    (rows.ASPPUNet, "atrous spatial pyramid pooling at the bottom",
     "Chen et al. 2017, arXiv:1706.05587"),
    (rows.HDCUNet, "hybrid dilated convolutions at the bottom",
     "Wang et al. 2018, arXiv:1702.08502"),
    (rows.ASPPNonLocalUNet, "atrous pyramid pooling, then self-attention",
     "Chen et al. 2017, arXiv:1706.05587; Wang et al. 2018, arXiv:1711.07971"),
    (rows.GraphUNet, "reasoning over a graph of regions at the bottom",
     "Chen et al. 2019, arXiv:1811.12814"),
)  # fmt: skip

COMPOSED = tuple(
    Entry(config, build_composable, summary, source) for config, summary, source in _ROWS
)
