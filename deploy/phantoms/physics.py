"""Two scanners: what a tissue map looks like in CT and in MR.

Source: the spin-echo signal equation and the Rician law of magnitude noise (Gudbjartsson and
Patz, Magn Reson Med 34, 1995). T1 and T2 at 3 T: de Bazelaire et al., Radiology 230, 2004, for
liver, spleen, kidney cortex, muscle, marrow and fat. Blood, bowel, all proton densities and all
portal-venous Hounsfield units are plausible assumptions, not measurements.

Where we differ from the source: the kidney's T2 is 52 ms and not 76 ms. With 76 ms the kidney
outshines the spleen in CT and in T2 alike; here their order turns over, so that no single rule
about intensities serves both modalities.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deploy.phantoms.anatomy import Tissue
from deploy.phantoms.difficulty import Difficulty
from deploy.phantoms.shapes import grid_axes

Modality = Literal["ct", "mr"]
Weighting = Literal["t1", "t2fs"]


@dataclass(frozen=True)
class Substance:
    """Physical properties of one kind of tissue.

    Attributes:
        hu: Mean attenuation in the portal-venous phase, in HU.
        hu_sd: Spread of that mean between patients, in HU.
        enhances: Whether contrast agent raises it above unenhanced soft tissue.
        density: Apparent proton density relative to water; 0 gives no MR signal.
        t1_ms: Longitudinal relaxation time at 3 T, in ms.
        t2_ms: Transverse relaxation time at 3 T, in ms.
    """

    hu: float
    hu_sd: float
    enhances: bool
    density: float
    t1_ms: float
    t2_ms: float


_AIR = Substance(-1000, 0, enhances=False, density=0.0, t1_ms=1000, t2_ms=100)
_FAT = Substance(-95, 6, enhances=False, density=0.85, t1_ms=382, t2_ms=68)
_MUSCLE = Substance(55, 5, enhances=False, density=0.8, t1_ms=898, t2_ms=29)
_BONE = Substance(450, 50, enhances=False, density=0.6, t1_ms=586, t2_ms=49)
# Flowing blood leaves a spin-echo slice before it is read: hence the low apparent density.
_BLOOD = Substance(150, 10, enhances=True, density=0.35, t1_ms=1932, t2_ms=275)
# A mixture of wall, fluid, stool and gas. It fills the cavity: darker than the liver in CT and
# T1, brighter in T2, so that the liver's edge turns over between CT and T2.
_BOWEL = Substance(30, 10, enhances=False, density=0.35, t1_ms=1200, t2_ms=80)
_LIVER = Substance(105, 6, enhances=True, density=0.9, t1_ms=809, t2_ms=34)
_SPLEEN = Substance(120, 6, enhances=True, density=0.75, t1_ms=1328, t2_ms=61)
_KIDNEY = Substance(170, 10, enhances=True, density=0.75, t1_ms=1142, t2_ms=52)

_SUBSTANCE_OF: Mapping[Tissue, Substance] = {
    Tissue.AIR: _AIR,
    Tissue.FAT: _FAT,
    Tissue.MUSCLE: _MUSCLE,
    Tissue.BONE: _BONE,
    Tissue.VESSEL: _BLOOD,
    Tissue.BOWEL: _BOWEL,
    Tissue.LIVER: _LIVER,
    Tissue.SPLEEN: _SPLEEN,
    Tissue.LEFT_KIDNEY: _KIDNEY,
    Tissue.RIGHT_KIDNEY: _KIDNEY,
    Tissue.LIVER_MIMIC: _LIVER,
    Tissue.SPLEEN_MIMIC: _SPLEEN,
    Tissue.KIDNEY_MIMIC: _KIDNEY,
}

_UNENHANCED_HU = 55.0
_CT_NOISE_HU = 18.0
_CT_NOISE_BLUR_VOXELS = 0.5
_CT_RANGE_HU = (-1024, 3071)  # what 12 bits of a scanner's output hold
_MR_RANGE = (0, 32767)
_RELAXATION_SPREAD = 0.07
_FAT_LEFT_BY_SATURATION = 0.15
_BIAS_STRENGTH = (0.35, 0.55)
_BIAS_LENGTH = 0.5  # a quarter of the field of view, in halves of it
_BIAS_TERMS = 16
_RICIAN_SIGMA = (0.05, 0.08)


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What all images of one site have in common.

    Attributes:
        offset_hu: CT: constant error of the calibration, in HU.
        contrast_phase: CT: mean share of the portal-venous enhancement that is reached, 0 to 1.
        noise: Both: factor on the noise.
        bias: MR: factor on the strength of the bias field.
        gain: MR: the arbitrary unit, as the value of the image's 99th percentile.
    """

    offset_hu: float
    contrast_phase: float
    noise: float
    bias: float
    gain: float


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a site's scanner; call it once per site.

    Offset 8 to 12 HU of either sign; noise and bias between 1/1.4 and 1.4 times the mean.
    """
    log_factor = math.log(1.4)
    return Scanner(
        offset_hu=float(rng.choice((-1.0, 1.0)) * rng.uniform(8.0, 12.0)),
        contrast_phase=float(rng.uniform(0.6, 0.9)),
        noise=math.exp(rng.uniform(-log_factor, log_factor)),
        bias=math.exp(rng.uniform(-log_factor, log_factor)),
        gain=math.exp(rng.uniform(math.log(300.0), math.log(1500.0))),
    )


def render_ct(
    tissue: NDArray[np.uint8],
    scanner: Scanner,
    difficulty: Difficulty,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    r"""Take a CT image of a tissue map.

    .. math:: HU = 55 + f (\bar{HU} - 55)

    for tissues that enhance, with ``f`` between 0.5 and 1 per patient, so that the contrast is
    no constant; then noise with a short correlation length.

    Args:
        tissue: A map of ``Tissue`` values, 2-D or 3-D; not changed.
        scanner: The site's scanner.
        difficulty: Scales the noise.
        rng: Source of randomness; advanced.

    Returns:
        Attenuation in HU, with the shape of ``tissue``.
    """
    phase = float(np.clip(scanner.contrast_phase + rng.uniform(-0.12, 0.12), 0.5, 1.0))

    def attenuation(substance: Substance) -> float:
        mean = substance.hu + rng.normal() * substance.hu_sd
        return _UNENHANCED_HU + phase * (mean - _UNENHANCED_HU) if substance.enhances else mean

    clean = _values_of_tissues(attenuation)[tissue]
    noise = ndimage.gaussian_filter(rng.standard_normal(tissue.shape), _CT_NOISE_BLUR_VOXELS)
    # Blurring lowers the variance; the stated noise is that of the finished image.
    noise *= _CT_NOISE_HU * scanner.noise * difficulty.noise / float(noise.std())
    return _whole_numbers(clean + noise + scanner.offset_hu, _CT_RANGE_HU)


def render_mr(
    tissue: NDArray[np.uint8],
    scanner: Scanner,
    difficulty: Difficulty,
    rng: np.random.Generator,
    weighting: Weighting | None = None,
) -> NDArray[np.int16]:
    r"""Take a spin-echo MR image of a tissue map.

    .. math:: S = \rho (1 - e^{-TR/T1}) e^{-TE/T2}, \qquad
              I = g \sqrt{(B S + n_1)^2 + n_2^2}

    Args:
        tissue: A map of ``Tissue`` values, 2-D or 3-D; not changed.
        scanner: The site's scanner.
        difficulty: Scales noise and bias.
        rng: Source of randomness; advanced.
        weighting: T1-weighted or T2-weighted with fat saturation; drawn if ``None``.

    Returns:
        Signal in arbitrary units, with the shape of ``tissue``; the background is not zero.
    """
    drawn: Weighting = "t1" if rng.random() < 0.5 else "t2fs"  # noqa: PLR2004
    clean = _spin_echo_signals(weighting or drawn, rng)[tissue]
    strength = rng.uniform(*_BIAS_STRENGTH) * scanner.bias * difficulty.bias
    clean *= np.exp(0.5 * strength * _smooth_field(tissue.shape, rng))
    clean /= max(float(np.percentile(clean, 99.0)), 1e-6)
    sigma = rng.uniform(*_RICIAN_SIGMA) * scanner.noise * difficulty.noise
    real, imaginary = rng.standard_normal((2, *tissue.shape)) * sigma
    gain = scanner.gain * rng.uniform(0.8, 1.25)
    return _whole_numbers(gain * np.hypot(clean + real, imaginary), _MR_RANGE)


RENDERERS: Mapping[
    Modality,
    Callable[[NDArray[np.uint8], Scanner, Difficulty, np.random.Generator], NDArray[np.int16]],
] = {"ct": render_ct, "mr": render_mr}


def _spin_echo_signals(weighting: Weighting, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return one patient's noise-free signal per tissue, with the protocol drawn as well."""
    is_t1 = weighting == "t1"
    repetition_ms = rng.uniform(110.0, 180.0) if is_t1 else rng.uniform(1800.0, 2600.0)
    echo_ms = rng.uniform(3.0, 5.0) if is_t1 else rng.uniform(70.0, 100.0)

    def signal(substance: Substance) -> float:
        t1_ms, t2_ms = np.array([substance.t1_ms, substance.t2_ms]) * np.exp(
            _RELAXATION_SPREAD * rng.standard_normal(2)
        )
        saturated = substance is _FAT and not is_t1
        density = substance.density * (_FAT_LEFT_BY_SATURATION if saturated else 1.0)
        recovered = 1.0 - math.exp(-repetition_ms / t1_ms)
        return float(density * recovered * math.exp(-echo_ms / t2_ms))

    return _values_of_tissues(signal)


def _values_of_tissues(value: Callable[[Substance], float]) -> NDArray[np.float64]:
    """Draw one value per substance, laid out by tissue; a mimic shares its organ's."""
    known: dict[Substance, float] = {}
    table = np.zeros(len(Tissue))
    for tissue, substance in _SUBSTANCE_OF.items():
        if substance not in known:
            known[substance] = value(substance)
        table[tissue] = known[substance]
    return table


def _whole_numbers(image: NDArray[np.float64], limits: tuple[int, int]) -> NDArray[np.int16]:
    """Round an image to the 16-bit integers that scanners store."""
    rounded: NDArray[np.int16] = np.clip(np.rint(image), *limits).astype(np.int16)
    return rounded


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a field of unit variance and Gaussian covariance (random Fourier features).

    A sum of a few plane waves costs the same in 2-D and 3-D and has no kernel to truncate.
    """
    grid = np.meshgrid(*grid_axes(shape), indexing="ij", sparse=True)
    field = np.zeros(shape)
    for _ in range(_BIAS_TERMS):
        vector = rng.normal(0.0, 1.0 / _BIAS_LENGTH, size=len(shape))
        phase = rng.uniform(0.0, 2.0 * math.pi)
        angle = sum(w * axis for w, axis in zip(vector.tolist(), grid, strict=True))
        field += np.cos(angle + phase)
    return field * math.sqrt(2.0 / _BIAS_TERMS)
