from dataclasses import replace

import pytest

from common.errors import StudyError
from common.study import Training, canonical_json, parse_study
from common.study import backbones as whole
from tests.support.studies import TINY, small_study

WRONG = [
    ("dynunet", {"deep_supervision": 2}, "deep_supervision: is 2, expected 0 to 1"),
    ("dynunet", {"deep_supervision": -1}, "deep_supervision: is -1, expected 0 to 1"),
    ("sa_unet", {"edge_weight": -1.0}, "edge_weight: is -1.0, expected"),
    ("vnet", {"width": 0}, "width: is 0, expected 1 to 64"),
    ("unet_plus_plus", {"features": (4, 4, 8)}, "features: has 3 entries, expected 6"),
    ("unet_plus_plus", {"features": (4, 4, 1, 8, 8, 4)}, "expected 2 or more from the third"),
    ("bcdu_net", {"dense": 0}, "dense: is 0, expected 1 to 8"),
    ("slice_lstm", {"widths": (8,)}, "widths: has 1 entries, expected 2 to 8"),
    ("coarse_to_fine", {"coarse": 3}, "coarse: is 3, expected 1 or 2"),
    ("detect_then_segment", {"factor": 3}, "factor: is 3, expected 1, 2, 4 or 8"),
    ("detect_then_segment", {"factor": 0}, "factor: is 0, expected 1, 2, 4 or 8"),
    ("detect_then_segment", {"locator": (8,)}, "locator: has 1 entries, expected 2 to 8"),
    ("detect_then_segment", {"region": 0.0}, "region: is 0.0, expected 0.1 to 1.0"),
    ("kiu_net", {"widths": (8,) * 4}, "widths: has 4 entries, expected 1 to 3"),
    ("ki_net", {"dropout": 1.0}, "dropout: is 1.0, expected from 0 to below 1"),
    ("h_dense_unet", {"widths": (8, 0)}, "widths: has [8, 0], expected each from 1 to 4096"),
    ("mednext", {"kernel_size": 4}, "kernel_size: is 4, expected 3, 5 or 7"),
    ("swin_unetr", {"features": 20}, "features: is 20, expected a multiple of 12"),
    (
        "swin_unetr",
        {"depths": (1, 1)},
        "depths: has [1, 1], expected four numbers from 1 to 24",
    ),
    ("sa_unet", {"widths": (8, 8)}, "widths: has 2 entries, expected 3 to 8"),
]


def problems_of(study):
    with pytest.raises(StudyError) as caught:
        parse_study(canonical_json(study))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "changes", "expected"), WRONG, ids=[f"{n}, {', '.join(c)}" for n, c, _ in WRONG]
)
def test_what_a_network_cannot_be_built_of_is_told_with_its_field(name, changes, expected):
    network = TINY[name]
    wrong = replace(network, **changes)

    told = problems_of(small_study(network=wrong, dimensions=network.dimensions[0]))

    assert "network." in told
    assert expected in told


@pytest.mark.parametrize(
    ("config", "side", "dimensions", "largest"),
    [
        (whole.KiUNet(), 256, 2, 128),
        (whole.KiNet(), 32, 3, 16),
        (whole.KiUNet(widths=(8, 16)), 64, 3, 32),
    ],
    ids=["a plane", "a volume, three stages", "a volume, two stages"],
)
def test_a_patch_whose_enlarged_maps_would_not_fit_is_refused(
    config, side, dimensions, largest
):
    study, fitting = (
        small_study(
            network=config, dimensions=dimensions, training=Training(patch=(s,) * dimensions)
        )
        for s in (side, largest)
    )

    told = problems_of(study)

    takes = f"network {config.name} takes sides of {largest} at most in {dimensions}-D"
    assert f"training.patch: is {[side] * dimensions}, but {takes}" in told
    assert parse_study(canonical_json(fitting)).training.patch == (largest,) * dimensions


def test_the_nearest_patch_that_works_is_not_above_the_largest():
    study = small_study(network=whole.KiUNet(), training=Training(patch=(250, 128)))

    assert "the nearest that works is [128, 128]" in problems_of(study)
