"""Hypothesis strategies for weights, updates of one parameter, and studies."""

from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from common.losses import LOSSES
from common.study import (
    Augmentation,
    Distillation,
    Evaluation,
    Federation,
    Label,
    Modality,
    SearchTerms,
    Sharing,
    Training,
)
from common.study.losses import DiceCrossEntropy
from common.study.methods import FedAvg, FedProx
from common.study.networks import UNet
from tests.support.studies import small_study

checked = settings(deadline=None, max_examples=60, derandomize=True)
shapes = npst.array_shapes(min_dims=0, max_dims=3, max_side=4)
floating = st.sampled_from([np.float16, np.float32, np.float64])
case_counts = st.integers(1, 10_000)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda name: name != "background"
)


def arrays(dtype, shape):
    """Return finite arrays, subnormals and both zeros among them, far from overflow."""
    largest = float(np.finfo(dtype).max) / 4
    width = np.dtype(dtype).itemsize * 8
    numbers = st.floats(-largest, largest, width=width)
    return npst.arrays(dtype, shape, elements=numbers)


@st.composite
def updates(draw, min_sites=1, max_sites=5):
    """Draw one parameter as so many sites send it, and their counts of cases."""
    dtype, shape = draw(floating), draw(shapes)
    sites = draw(st.integers(min_sites, max_sites))
    sent = [draw(arrays(dtype, shape)) for _ in range(sites)]
    return sent, [draw(case_counts) for _ in range(sites)]


@st.composite
def named_weights(draw):
    """Draw arrays by name, of every type that a weights file may hold."""
    keys = draw(st.lists(st.text(min_size=1, max_size=8), max_size=4, unique=True))
    keys = [key for key in keys if key != "__metadata__" and key.isprintable()]
    return {key: draw(arrays(draw(floating), draw(shapes))) for key in keys}


@st.composite
def studies(draw):
    """Draw 2-D studies that can be trained."""
    found = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    window = st.tuples(st.integers(-2000, 0), st.integers(1, 3000)).map(
        lambda pair: tuple(map(float, pair))
    )
    modality = st.one_of(
        st.builds(Modality, intensity=st.just("hounsfield"), window=window),
        st.builds(Modality, intensity=st.just("arbitrary"), window=st.none() | window),
    )
    share = st.floats(0, 0.4)
    study = small_study(
        *found,
        modalities=draw(st.dictionaries(names, modality, min_size=1, max_size=3)),
        channels=draw(st.integers(1, 4)),
        spacing_mm=draw(st.none() | st.tuples(*[st.floats(0.01, 100)] * 2)),
        network=draw(
            st.builds(
                UNet,
                channels=st.just((4, 8)),
                strides=st.just((2,)),
                dropout=st.floats(0, 0.5),
                norm=st.sampled_from(["group", "batch", "instance", "layer"]),
            )
        ),
        loss=draw(
            st.sampled_from([loss.config() for name, loss in LOSSES.items() if name != "sum"])
            | st.builds(DiceCrossEntropy, dice_weight=st.floats(0.001, 1e5))
        ),
        training=draw(
            st.builds(
                Training,
                steps=st.integers(1, 1000),
                patch=st.just((32, 32)),
                learning_rate=st.floats(0, 10),
                keep_optimizer=st.booleans(),
            )
        ),
        augmentation=draw(st.builds(Augmentation, noise=st.floats(0, 10))),
        federation=draw(
            st.builds(
                Federation,
                rounds=st.integers(1, 100_000),
                method=st.just(FedAvg()) | st.builds(FedProx, mu=st.floats(0, 1e9)),
            )
        ),
        sharing=draw(
            st.builds(
                Sharing,
                norm=st.sampled_from(
                    ["per_modality", "everything", "statistics_local", "local"]
                ),
            )
        ),
        distillation=draw(st.builds(Distillation, weight=st.floats(0, 100))),
        evaluation=draw(st.builds(Evaluation, validation=share, test=share)),
        seed=draw(st.integers(0, 2**32 - 1)),
        search=draw(
            st.none()
            | st.builds(
                SearchTerms,
                over=st.sampled_from(["network", "loss", "both"]),
                trials=st.integers(1, 10_000),
            )
        ),
    )
    sides = [draw(st.sampled_from(["none", "left", "right"])) for _ in found]
    labels = tuple(Label(name=n, side=s) for n, s in zip(found, sides, strict=True))
    return replace(study, labels=labels)
