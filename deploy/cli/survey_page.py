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
NETS, BLOCKS = "tests/golden/test_networks.py", "tests/golden/test_blocks.py"
LOSSES_BY_HAND, DISTANCES = (
    "tests/golden/test_losses.py",
    "tests/golden/test_loss_distances.py",
)
TRANSFER, DINTS = "tests/golden/test_transfer.py", "tests/golden/test_dints.py"
DETECTING, EDGES = "tests/golden/test_detecting.py", "tests/golden/test_loss_edges.py"
SEARCHED, HUB = "tests/integration/test_search.py", "tests/integration/test_hub_search.py"
EXPLAINED = "tests/unit/client/test_explain.py"
ADVERSARY = "tests/unit/client/test_adversary.py"

HEAD = """\
# The survey's methods, and where they are

Written by `python -m deploy.cli.survey_page docs/survey.md`; do not edit it.

Wang et al., "Medical image segmentation using deep learning: A survey", IET Image Processing
2022, doi:10.1049/ipr2.12419, names the methods below. Each that has an entry is chosen by that
name in a study (`network: NAME`, `loss: NAME`, `training: {scheme: NAME}`), trains in a
federation of CT and MRI sites with norms kept by modality, and is held to the test that is
named: most against MONAI, PyTorch, SciPy, published numbers or a case worked by hand, the
others to what the method promises. Beside it all networks are held to
`tests/conformance/test_networks.py` and all losses to `tests/conformance/test_losses.py`.
[results/survey.md](results/survey.md) has what each reached.
"""


@dataclass(frozen=True)
class Line:
    """One method of the survey.

    Attributes:
        words: What the survey says.
        kind: ``network``, ``loss`` or ``scheme``, whose catalogue has its source; else empty.
        entry: Name of it, or where it is.
        file: Of its test.
        test: The test, without its ``test_``, beside those that all are held to.
        source: Where no catalogue has it.
    """

    words: str
    kind: str
    entry: str
    file: str
    test: str
    source: str = ""


SECTIONS: Mapping[str, tuple[Line, ...]] = {
    "Backbones": (
        Line("U-Net, the baseline as it is listed", NETWORK, "survey_unet",
             NETS, "the_surveys_baseline_has_as_many_parameters_as_its_listing"),
        Line("U-Net with residual units and strides", NETWORK, "unet",
             NETS, "what_monai_has_answers_what_monais_answers"),
        Line("U-Net with four poolings", NETWORK, "basic_unet",
             NETS, "what_monai_has_answers_what_monais_answers"),
        Line("3D U-Net with three poolings", NETWORK, "unet_3d",
             NETS, "the_3d_u_net_has_as_many_parameters_as_counted_by_hand"),
        Line("V-Net: residual, four down-samplings", NETWORK, "vnet",
             NETS, "vnet_answers_what_monais_answers"),
        Line("Res-UNet: a shortcut in every block", NETWORK, "residual_unet",
             BLOCKS, "a_residual_block_adds_its_shortcut"),
        Line("recurrent network: R2U-Net", NETWORK, "r2unet",
             BLOCKS, "a_recurrent_convolution_is_the_same_layer_unrolled"),
        Line("recurrent network: global-local cross attention", NETWORK, "glca_unet",
             BLOCKS,
             "global_local_attention_asks_from_a_tenth_of_the_places_and_begins_as_nothing"),
        Line("LSTM on the skips: BCDU-Net", NETWORK, "bcdu_net",
             NETS, "a_convolutional_lstm_is_the_loop_worked_by_hand"),
        Line("LSTM across slices", NETWORK, "slice_lstm",
             NETS, "what_a_slice_holds_reaches_every_other_slice_through_the_lstm_alone"),
        Line("cascade from coarse to fine", NETWORK, "coarse_to_fine",
             NETS, "the_second_network_of_a_cascade_sees_what_the_first_thinks"),
        Line("cascade of detection, then segmentation", NETWORK, "detect_then_segment",
             DETECTING, "the_box_is_the_region_that_the_locator_lit_and_is_pasted_there"),
        Line("H-DenseUNet: 2-D and 3-D features fused", NETWORK, "h_dense_unet",
             NETS, "a_slices_neighbours_are_the_one_before_and_the_one_after"),
        Line("light hybrid network, 3-D depthwise separable", NETWORK, "light_hybrid",
             BLOCKS, "the_factors_of_a_separable_convolution_are_those_of_the_paper"),
        Line("pseudo-3D convolutions", NETWORK, "pseudo_3d",
             BLOCKS, "a_pseudo_3d_pair_is_one_convolution_whose_kernel_is_the_product"),
        Line("over-complete network: Ki-Net", NETWORK, "ki_net",
             NETS, "an_over_complete_network_sees_few_voxels_of_the_image"),
        Line("over-complete and U-Net together: KiU-Net", NETWORK, "kiu_net",
             NETS, "the_branches_of_kiu_net_tell_each_other_and_are_added"),
        Line("GAN: SegAN, a critic that stays at the site", SCHEME, "segan",
             ADVERSARY, "the_critics_steps_increase_the_distance_of_a_batch"),
        Line("nnU-Net's network, deeply supervised or not", NETWORK, "dynunet",
             NETS, "a_deeply_supervised_dynunet_answers_what_monais_answers"),
        Line("MedNeXt with kernels grown from smaller ones", NETWORK, "mednext",
             NETS, "mednext_has_as_many_parameters_as_published_and_as_monais"),
        Line("transformer: Swin UNETR", NETWORK, "swin_unetr",
             NETS, "swin_unetr_has_as_many_parameters_as_published"),
        Line("encoder trained on natural images, inflated to 3-D", NETWORK, "pretrained_unet",
             TRANSFER, "a_volume_that_repeats_a_slice_has_the_slices_maps_away_from_its_ends"),
    ),
    "Blocks, attention and several scales": (
        Line("dense connections in each block", NETWORK, "dense_unet",
             BLOCKS, "each_layer_of_a_dense_block_sees_all_before_it"),
        Line("U-Net++ with deep supervision", NETWORK, "unet_plus_plus",
             NETS, "unet_plus_plus_answers_what_monais_answers_the_deepest_first"),
        Line("U-Net++ pruned", "", "common.networks.nested.prune",
             NETS, "a_pruned_network_answers_bit_for_bit_as_the_head_of_its_depth",
             "Zhou et al. 2018, arXiv:1807.10165"),
        Line("Inception: kernels side by side", NETWORK, "inception_unet",
             BLOCKS, "an_inception_block_is_its_four_branches_side_by_side"),
        Line("depthwise separable convolution", NETWORK, "depthwise_unet",
             BLOCKS, "a_depthwise_separable_convolution_has_the_weights_of_the_paper"),
        Line("local spatial attention: attention gates", NETWORK, "attention_unet",
             BLOCKS, "a_gate_is_numpys_at_the_coarser_size"),
        Line("channel attention: squeeze and excitation", NETWORK, "se_unet",
             BLOCKS, "channels_are_weighed_as_in_numpy"),
        Line("mixed attention: scSE", NETWORK, "scse_unet",
             BLOCKS, "scse_is_numpys_larger_of_channel_and_place"),
        Line("mixed attention: CBAM", NETWORK, "cbam_unet",
             BLOCKS, "cbam_is_numpys_channels_then_places"),
        Line("non-local attention", NETWORK, "nonlocal_unet",
             BLOCKS, "nonlocal_attention_is_numpys"),
        Line("pyramid pooling", NETWORK, "psp_unet",
             BLOCKS, "pyramid_pooling_sees_the_map_beside_its_means"),
        Line("dense atrous convolution and residual multi-kernel pooling", NETWORK, "ce_net",
             BLOCKS, "dense_atrous_convolution_is_scipys_along_four_paths"),
        Line("atrous spatial pyramid pooling", NETWORK, "aspp_unet",
             BLOCKS, "atrous_pooling_is_scipys_with_kernels_spread_by_the_rates"),
        Line("hybrid dilated convolution, rates in a saw-tooth", NETWORK, "hdc_unet",
             BLOCKS, "the_rule_of_dilation_rates_is_the_brute_force_count_of_seen_places"),
        Line("atrous pyramid pooling with non-local attention", NETWORK, "aspp_nonlocal_unet",
             BLOCKS, "atrous_pooling_then_attention"),
        Line("graph convolution", NETWORK, "graph_unet",
             BLOCKS, "graph_reasoning_is_numpys"),
        Line("up-sampling: deconvolution, interpolation, un-pooling, pixel shuffle", NETWORK,
             "composable_unet", BLOCKS,
             "unpooling_puts_each_maximum_back_where_it_stood"),
    ),
    "Losses": (
        Line("cross entropy", LOSS, "cross_entropy",
             LOSSES_BY_HAND, "losses_are_those_of_monai_and_torch"),
        Line("cross entropy weighted by class", LOSS, "weighted_cross_entropy",
             DISTANCES, "weighted_entropy_is_that_of_torch"),
        Line("cross entropy weighted by distance", LOSS, "distance_weighted_cross_entropy",
             DISTANCES, "distance_weighted_entropy_is_that_worked_by_hand"),
        Line("Dice", LOSS, "dice",
             LOSSES_BY_HAND, "losses_are_those_of_monai_and_torch"),
        Line("generalised Dice", LOSS, "generalized_dice",
             LOSSES_BY_HAND, "losses_of_regions_are_those_of_monai"),
        Line("Tversky", LOSS, "tversky",
             LOSSES_BY_HAND, "losses_of_regions_are_those_of_monai"),
        Line("boundary", LOSS, "boundary",
             DISTANCES, "the_map_of_boundary_is_that_of_monai_less_half_a_voxel"),
        Line("exponential logarithmic", LOSS, "exponential_logarithmic",
             LOSSES_BY_HAND, "a_loss_is_that_worked_by_hand"),
        Line("focal", LOSS, "focal",
             LOSSES_BY_HAND, "focal_is_that_of_monai_summed_over_classes"),
        Line("unified focal", LOSS, "unified_focal",
             LOSSES_BY_HAND, "unified_focal_of_two_classes_is_that_of_monai"),
        Line("soft centre-line Dice", LOSS, "cldice",
             LOSSES_BY_HAND, "cldice_is_that_of_monai_for_each_image_and_class"),
        Line("Hausdorff distance", LOSS, "hausdorff",
             LOSSES_BY_HAND, "losses_of_regions_are_those_of_monai"),
        Line("Dice and cross entropy", LOSS, "dice_ce",
             LOSSES_BY_HAND, "losses_are_those_of_monai_and_torch"),
        Line("weighted sums whose weights change while a network trains", LOSS, "sum",
             DISTANCES, "a_sum_is_weighted_by_how_far_the_training_is"),
        Line("deep supervision of any loss", "", "common.losses.deep.deep_loss",
             LOSSES_BY_HAND, "each_level_has_half_the_weight_of_a_finer_one",
             "Lee et al. 2015, arXiv:1409.5185"),
        Line("loss search", "", "fedseg search --over loss",
             SEARCHED, "a_search_for_a_loss_on_phantoms_of_its_own",
             "weights by softmax; Akiba et al. 2019, arXiv:1907.10902"),
    ),
    "What a network sees": (
        Line("shape-attentive network: SAUNet", NETWORK, "sa_unet",
             EDGES, "the_loss_is_the_cross_entropy_of_the_edges"),
        Line("guided back-propagation", "", "fedseg explain",
             EXPLAINED, "guided_back_propagation_of_a_network_worked_by_hand",
             "Springenberg et al. 2015, arXiv:1412.6806"),
        Line("Grad-CAM and Seg-Grad-CAM", "", "fedseg explain",
             EXPLAINED, "seg_grad_cam_of_a_network_worked_by_hand",
             "Selvaraju et al. 2017, arXiv:1610.02391; Vinogradova et al. 2020, "
             "arXiv:2002.11434"),
        Line("maps of every attention", "", "fedseg explain",
             EXPLAINED, "attention_shows_its_own_maps",
             "each network's own"),
    ),
    "Search": (
        Line("architecture search: space, strategy, evaluation", "", "fedseg search",
             SEARCHED, "a_search_trains_its_trials_and_names_a_study_that_is_the_best",
             "Elsken et al. 2019, arXiv:1808.05377"),
        Line("the same between hospitals", "", "fedseg hub search",
             HUB, "sites_approve_a_search_once_and_it_finds_what_a_simulation_finds",
             "Elsken et al. 2019, arXiv:1808.05377"),
        Line("differentiable search: DiNTS", NETWORK, "dints_search",
             DINTS, "a_space_that_is_sure_answers_as_the_network_that_is_read_out_of_it"),
        Line("what a differentiable search found", NETWORK, "dints",
             DINTS, "whatever_is_read_out_is_a_network"),
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
    for title, lines in SECTIONS.items():
        yield f"## {title}"
        yield ""
        yield "| the survey's | entry | source | test |"
        yield "|---|---|---|---|"
        for line in lines:
            source = known[line.kind][line.entry].source if line.kind else line.source
            test = f"`test_{line.test}` in `{line.file.removeprefix('tests/')}`"
            yield f"| {line.words} | `{line.entry}` | {source} | {test} |"
        yield ""


def run(arguments: list[str]) -> None:
    """Write the page to the file that is named."""
    write_text(Path(arguments[0]), page())


if __name__ == "__main__":
    run(sys.argv[1:])
