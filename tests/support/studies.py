"""Small studies, and updates of sites that take part in them."""

from pathlib import Path

import numpy as np

from common.messages import Accounting, Enrolment, Update, UpdateReport
from common.networks.rows import COMPOSED
from common.parameters import Parameter
from common.study import Label, Modality, Study, Training, study_hash
from common.study import backbones as whole
from common.study.dints import Dints, DintsSearch
from common.study.networks import BasicUNet, DynUNet, UNet
from common.study.transfer import PretrainedUNet

ROOT = Path(__file__).resolve().parents[2]
CT = Modality(intensity="hounsfield", window=(-160.0, 240.0))
MR = Modality(intensity="arbitrary")
TINY = {
    "unet": UNet(channels=(4, 8, 8), strides=(2, 2), residual_units=1),
    "basic_unet": BasicUNet(features=(4, 4, 8, 8, 16, 4)),
    "dynunet": DynUNet(filters=(4, 8, 8), strides=(2, 2)),
    **{entry.name: entry.config(widths=(8, 8, 16)) for entry in COMPOSED},
    "vnet": whole.VNet(width=2),
    "unet_plus_plus": whole.UNetPlusPlus(features=(4, 4, 8, 8, 8, 4)),
    "bcdu_net": whole.BCDUNet(widths=(8, 8, 16), dense=2),
    "slice_lstm": whole.SliceLSTM(widths=(8, 8, 16)),
    "coarse_to_fine": whole.CoarseToFine(widths=(8, 8, 16)),
    "detect_then_segment": whole.DetectThenSegment(
        widths=(8, 8, 16), locator=(8, 8, 8), factor=2
    ),
    "kiu_net": whole.KiUNet(widths=(4, 4)),
    "ki_net": whole.KiNet(widths=(8, 8)),
    "h_dense_unet": whole.HDenseUNet(widths=(8, 8, 16)),
    "mednext": whole.MedNeXt(filters=4),
    "dints": Dints(width=4, blocks=3, depths=2),
    "dints_search": DintsSearch(width=4, blocks=3, depths=2),
    "pretrained_unet": PretrainedUNet(encoder="resnet10", decoder=(16, 16, 8, 8, 8)),
    "swin_unetr": whole.SwinUNETR(features=12, depths=(1, 1, 1, 1)),
    "sa_unet": whole.SAUNet(widths=(8, 8, 16)),
}

TEXT = """\
name: small
labels: [liver, spleen]
dimensions: 2
modalities:
  ct: {intensity: hounsfield, window: [-160, 240]}
  mr: {intensity: arbitrary}
network: {name: unet, channels: [4, 8], strides: [2]}
training: {patch: [32, 32]}
"""


def small_study(*labels, **changes):
    """Return a 2-D study of CT and MR with two labels; keywords replace fields."""
    dimensions = changes.get("dimensions", 2)
    values = {
        "name": "small",
        "labels": tuple(Label(name=name) for name in labels or ("liver", "spleen")),
        "modalities": {"ct": CT, "mr": MR},
        "dimensions": dimensions,
        "network": TINY["unet"],
        "training": Training(patch=(32,) * dimensions),
    }
    return Study(**{**values, **changes})


def text_with(old, new, *, text=TEXT):
    """Return the small study's YAML with one piece replaced."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def accounting(train, **changes):
    values = {"validation": 1, "test": 1, "skipped": {}, **changes}
    usable = changes.get("usable", train + values["validation"] + values["test"])
    declared = changes.get("declared", usable + sum(values["skipped"].values()))
    return Accounting(**{**values, "train": train, "usable": usable, "declared": declared})


def enrolment(site="A", cases=None, *, study=None, **changes):
    """Return a site that fits the small study; ``cases`` are training cases by modality."""
    values = {
        "study": study_hash(study or small_study()),
        "accounting": {m: accounting(n) for m, n in (cases or {"ct": 10}).items()},
        "annotated": ("liver", "spleen"),
        "totals": {},
        "version": "0.1.0",
    }
    return Enrolment(site=site, **{**values, **changes})


def table(**kinds):
    """Return a table of small float32 parameters: ``name=(kind, shape)``."""
    return {n: Parameter(n, shape, "float32", kind) for n, (kind, shape) in kinds.items()}


def update(site="A", cases=None, *, weights=None, **changes):
    """Return an update of the small study's first round."""
    values = {
        "run": "run-1",
        "study": study_hash(small_study()),
        "round": 1,
        "cases": cases or {"ct": 10},
        "used": {"ct": 8},
        "skipped": {},
        "steps": 20,
        "loss": 0.5,
        "seconds": {"training": 1.0},
        "scores": (),
        "affinities": {},
    }
    report = UpdateReport(site=site, **{**values, **changes})
    return Update(report=report, weights=weights or {"w": np.ones((2, 3), np.float32)})
