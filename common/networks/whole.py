"""The networks of the survey that are no choice of a U-Net's parts: each with its source."""

from common.catalogue import Entry
from common.networks.cascades import build_coarse_to_fine, build_h_dense_unet
from common.networks.detecting import build_detect_then_segment
from common.networks.dints import build_dints, build_dints_search
from common.networks.mednext import build_mednext
from common.networks.monai_networks import build_swin_unetr
from common.networks.nested import build_unet_plus_plus
from common.networks.overcomplete import build_ki_net, build_kiu_net
from common.networks.recurrent import build_bcdu_net, build_slice_lstm
from common.networks.shape_attentive import build_sa_unet
from common.networks.transfer import build_pretrained_unet
from common.networks.vnet import build_vnet
from common.study import backbones
from common.study.dints import Dints, DintsSearch
from common.study.transfer import PretrainedUNet

WHOLE = tuple(
    Entry(config, build, summary, source)
    for config, build, summary, source in (
        (backbones.VNet, build_vnet, "V-Net: residual levels of large kernels, four halvings",
         "Milletari et al. 2016, arXiv:1606.04797; MONAI VNet"),
        (backbones.UNetPlusPlus, build_unet_plus_plus, "U-Net++: nested skips, can be pruned",
         "Zhou et al. 2020, arXiv:1912.05074; MONAI BasicUNetPlusPlus"),
        (backbones.BCDUNet, build_bcdu_net, "BCDU-Net: convolutional LSTMs join the skips",
         "Azad et al. 2019, arXiv:1909.00166"),
        (backbones.SliceLSTM, build_slice_lstm, "2-D U-Net with an LSTM along the slices",
         "Novikov et al. 2019, arXiv:1807.02437"),
        (backbones.CoarseToFine, build_coarse_to_fine, "cascade: a second U-Net sees the first",
         "Christ et al. 2016, arXiv:1610.02177; Tu and Bai 2010, doi:10.1109/TPAMI.2009.186"),
        (backbones.DetectThenSegment, build_detect_then_segment,
         "cascade: a small U-Net finds the region that a second one segments",
         "Zhou et al. 2017, arXiv:1612.08230; Roth et al. 2018, arXiv:1803.05431"),
        (backbones.KiUNet, build_kiu_net, "KiU-Net: maps that shrink beside maps that grow",
         "Valanarasu et al. 2020, arXiv:2006.04878"),
        (backbones.KiNet, build_ki_net, "Ki-Net: maps that grow, for small structures",
         "Valanarasu et al. 2020, arXiv:2006.04878"),
        (backbones.HDenseUNet, build_h_dense_unet, "H-DenseUNet: slices and volume, fused",
         "Li et al. 2018, arXiv:1709.07330"),
        (backbones.MedNeXt, build_mednext, "MedNeXt: large depthwise kernels, four sizes",
         "Roy et al. 2023, arXiv:2303.09975; MONAI MedNeXt"),
        (Dints, build_dints, "DiNTS: levels and blocks, of which a search keeps a part",
         "He et al. 2021, arXiv:2103.15954; MONAI DiNTS"),
        (DintsSearch, build_dints_search, "DiNTS while it is searched: all paths, weighed",
         "He et al. 2021, arXiv:2103.15954; MONAI DiNTS"),
        (PretrainedUNet, build_pretrained_unet, "U-Net on a ResNet that can be pretrained",
         "Iglovikov and Shvets 2018, arXiv:1801.05746; Carreira and Zisserman 2017, "
         "arXiv:1705.07750; MONAI FlexibleUNet"),
        (backbones.SwinUNETR, build_swin_unetr, "Swin UNETR: attention in shifted windows",
         "Hatamizadeh et al. 2022, arXiv:2201.01266; MONAI SwinUNETR"),
        (backbones.SAUNet, build_sa_unet, "SAUNet: a stream of shape, a decoder that explains",
         "Sun et al. 2020, arXiv:2001.07645"),
    )
)  # fmt: skip
