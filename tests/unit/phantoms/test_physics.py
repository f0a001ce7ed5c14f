import dataclasses

import numpy as np
import pytest

from deploy.phantoms.anatomy import Tissue, sample_anatomy
from deploy.phantoms.difficulty import DIFFICULTIES
from deploy.phantoms.physics import Scanner, draw_scanner, render_ct, render_mr

PATIENTS = 30
SCANNER = Scanner(offset_hu=0.0, contrast_phase=0.8, noise=1.0, bias=1.0, gain=1000.0)
DEFAULT = DIFFICULTIES["default"]


def patients(count=PATIENTS, shape=(64, 64)):
    streams = [np.random.default_rng([7, number]) for number in range(count)]
    return [(sample_anatomy(shape, DEFAULT, rng), rng) for rng in streams]


def mean_of(images, maps, tissue):
    return float(
        np.mean(
            [
                image[one == tissue].mean()
                for image, one in zip(images, maps, strict=True)
                if (one == tissue).any()
            ]
        )
    )


def means_of(render, **options):
    """Mean intensity per tissue over patients, each image scaled to unit variance in MR."""
    maps, images = [], []
    for tissue, rng in patients():
        image = render(tissue, SCANNER, DEFAULT, rng, **options).astype(float)
        maps.append(tissue)
        images.append(image / image.std() if render is render_mr else image)
    return {tissue: mean_of(images, maps, tissue) for tissue in Tissue if tissue <= 9}


@pytest.fixture(scope="module")
def ct():
    return means_of(render_ct)


@pytest.fixture(scope="module")
def t1():
    return means_of(render_mr, weighting="t1")


@pytest.fixture(scope="module")
def t2():
    return means_of(render_mr, weighting="t2fs")


def test_ct_orders_kidney_spleen_liver_muscle_fat(ct):
    kidney, spleen, liver = ct[Tissue.LEFT_KIDNEY], ct[Tissue.SPLEEN], ct[Tissue.LIVER]

    assert kidney > spleen + 20
    assert spleen == pytest.approx(liver, abs=20)
    assert liver > ct[Tissue.MUSCLE] + 15
    assert ct[Tissue.MUSCLE] > ct[Tissue.FAT] + 100


def test_ct_is_in_hounsfield_units(ct):
    assert ct[Tissue.AIR] == pytest.approx(-1000, abs=15)
    assert ct[Tissue.FAT] == pytest.approx(-95, abs=5)
    assert ct[Tissue.MUSCLE] == pytest.approx(55, abs=5)


def test_t2_with_fat_saturation_orders_spleen_kidney_liver_muscle(t2):
    assert t2[Tissue.SPLEEN] > 1.1 * t2[Tissue.LEFT_KIDNEY]
    assert t2[Tissue.LEFT_KIDNEY] > 1.5 * t2[Tissue.LIVER]
    assert t2[Tissue.LIVER] > 1.2 * t2[Tissue.MUSCLE]
    assert t2[Tissue.FAT] < t2[Tissue.MUSCLE] * 1.1


def test_t1_orders_fat_liver_kidney_spleen(t1):
    assert t1[Tissue.FAT] > 1.6 * t1[Tissue.LIVER]
    assert t1[Tissue.LIVER] > 1.2 * t1[Tissue.LEFT_KIDNEY]
    assert t1[Tissue.LEFT_KIDNEY] > 1.05 * t1[Tissue.SPLEEN]


def test_the_order_of_kidney_and_spleen_turns_over_between_ct_and_t2(ct, t2):
    assert ct[Tissue.LEFT_KIDNEY] > ct[Tissue.SPLEEN]
    assert t2[Tissue.LEFT_KIDNEY] < t2[Tissue.SPLEEN]


def test_the_contrast_of_liver_and_fat_turns_over_between_ct_and_t1(ct, t1):
    assert ct[Tissue.LIVER] > ct[Tissue.FAT]
    assert t1[Tissue.LIVER] < t1[Tissue.FAT]


def test_the_edge_of_the_liver_against_the_gut_turns_over_between_ct_and_t2(ct, t1, t2):
    assert ct[Tissue.LIVER] > ct[Tissue.BOWEL] + 20
    assert t1[Tissue.LIVER] > 1.2 * t1[Tissue.BOWEL]
    assert t2[Tissue.LIVER] < 0.9 * t2[Tissue.BOWEL]


def test_liver_and_spleen_are_far_apart_only_in_t2(ct, t2):
    spread_of_body = abs(ct[Tissue.LIVER] - ct[Tissue.FAT])

    assert abs(ct[Tissue.SPLEEN] - ct[Tissue.LIVER]) < 0.15 * spread_of_body
    assert t2[Tissue.SPLEEN] > 1.8 * t2[Tissue.LIVER]


def test_both_kidneys_look_alike():
    maps, images = zip(
        *[(t, render_ct(t, SCANNER, DEFAULT, rng)) for t, rng in patients()], strict=True
    )

    left, right = (mean_of(images, maps, t) for t in (Tissue.LEFT_KIDNEY, Tissue.RIGHT_KIDNEY))

    assert left == pytest.approx(right, abs=5)


def test_the_background_of_mr_is_not_zero():
    tissue, rng = patients(1)[0]

    image = render_mr(tissue, SCANNER, DEFAULT, rng)

    assert image[tissue == Tissue.AIR].mean() > 20
    assert image.min() >= 0


def test_ct_noise_has_the_stated_spread():
    tissue = np.full((128, 128), Tissue.MUSCLE, np.uint8)

    image = render_ct(tissue, SCANNER, DEFAULT, np.random.default_rng(0))

    assert image.std() == pytest.approx(18.0, rel=0.03)


@pytest.mark.parametrize("render", [render_ct, render_mr])
def test_harder_phantoms_are_noisier(render):
    tissue = np.full((64, 64), Tissue.LIVER, np.uint8)
    images = {
        name: render(tissue, SCANNER, difficulty, np.random.default_rng(3)).astype(float)
        for name, difficulty in DIFFICULTIES.items()
    }

    roughness = {name: np.diff(i, axis=0).std() / SCANNER.gain for name, i in images.items()}

    assert roughness["easy"] < roughness["default"] < roughness["hard"]


def test_the_bias_field_is_smooth_and_as_strong_as_stated():
    tissue = np.full((64, 64), Tissue.LIVER, np.uint8)
    silent = dataclasses.replace(DEFAULT, noise=0.0)
    logs = [
        np.log(render_mr(tissue, SCANNER, silent, np.random.default_rng(s)).astype(float))
        for s in range(40)
    ]

    spread = np.mean([log.std() for log in logs])
    step = np.mean([np.abs(np.diff(log, axis=0)).mean() for log in logs])

    assert 0.1 < spread < 0.3
    assert step < 0.1 * spread


def test_sites_differ_in_offset_noise_phase_and_gain():
    scanners = [draw_scanner(np.random.default_rng(s)) for s in range(50)]

    for field in dataclasses.fields(Scanner):
        assert len({getattr(s, field.name) for s in scanners}) == 50
    assert {abs(s.offset_hu) // 13 for s in scanners} == {0.0}
    assert min(abs(s.offset_hu) for s in scanners) >= 8
    assert all(1 / 1.4 <= s.noise <= 1.4 and 1 / 1.4 <= s.bias <= 1.4 for s in scanners)


def test_a_scanner_offset_and_gain_show_in_the_image():
    tissue, _ = patients(1)[0]
    shifted = dataclasses.replace(SCANNER, offset_hu=10.0, gain=500.0)

    ct = [render_ct(tissue, s, DEFAULT, np.random.default_rng(1)) for s in (SCANNER, shifted)]
    mr = [render_mr(tissue, s, DEFAULT, np.random.default_rng(1)) for s in (SCANNER, shifted)]

    body = tissue > 0
    assert ct[1][body].mean() - ct[0][body].mean() == pytest.approx(10.0, abs=0.5)
    assert mr[0].mean() / mr[1].mean() == pytest.approx(2.0, rel=0.01)


def test_the_contrast_phase_scales_only_what_enhances():
    late = dataclasses.replace(SCANNER, contrast_phase=0.5)
    tissue = np.full((64, 64), Tissue.MUSCLE, np.uint8)
    tissue[:32] = Tissue.LEFT_KIDNEY

    full, weak = (
        render_ct(tissue, s, DEFAULT, np.random.default_rng(2)).astype(float)
        for s in (SCANNER, late)
    )

    assert full[32:].mean() == pytest.approx(weak[32:].mean(), abs=0.5)
    assert full[:32].mean() > weak[:32].mean() + 15


@pytest.mark.parametrize("render", [render_ct, render_mr])
def test_a_volume_is_rendered_like_a_slice(render):
    tissue, rng = patients(1, shape=(32, 32, 20))[0]

    image = render(tissue, SCANNER, DEFAULT, rng)

    assert image.shape == tissue.shape
    assert image.dtype == np.int16
