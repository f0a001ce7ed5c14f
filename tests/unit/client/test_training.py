from dataclasses import replace

import numpy as np
import pytest
import torch

from client.data.preprocessing import prepare
from client.training import Fit, build_optimizer, fit
from common.losses import build_loss
from common.networks import build_network
from common.study import Training
from common.study.networks import SAUNet
from tests.support.nifti import box_label, random_image
from tests.support.studies import small_study
from tests.unit.client.test_preprocessing import raw_of

STUDY = small_study(training=Training(steps=4, batch=1, patch=(16, 16)))


def case_of(annotated):
    shape = (20, 20)
    case = prepare(
        raw_of(random_image(shape), box_label(shape, ids=(1, 2)), spacing=(1.0, 1.0)), STUDY
    )
    files = replace(case.files, annotated=annotated)
    label = np.where(np.isin(case.label, annotated), case.label, 0).astype(np.int16)
    return replace(case, files=files, label=label, ready=True)


def plan_of(study, cases, **changes):
    """Return a plan of four steps that changes no patch; keywords replace fields."""
    values = {
        "study": study,
        "cases": cases,
        "loss": build_loss(study.loss),
        "augment": lambda image, label, _rng: (image, label),
        "device": torch.device("cpu"),
        "steps": 4,
        "first_step": 0,
        "total_steps": 16,
        "rng": np.random.default_rng(0),
        "others": {},
        "distillation": 0.0,
        "anchor": None,
        "progress": {},
    }
    return Fit(**{**values, **changes})


def calls_of(annotated, *, first_step, total_steps):
    """Train for four steps and return what the loss was called with beside the voxels."""
    calls = []

    def loss(logits, classes, progress=0.0, kept=None):
        calls.append((logits.shape[1], progress, kept))
        return logits.square().mean()

    network = build_network(STUDY)
    changes = {"first_step": first_step, "total_steps": total_steps, "loss": loss}
    plan = plan_of(STUDY, [case_of(annotated)], **changes)
    fit(network, build_optimizer(network, STUDY.training), plan)
    return calls


def test_a_loss_is_told_how_far_the_whole_training_is():
    calls = calls_of((1, 2), first_step=4, total_steps=16)

    assert [progress for _, progress, _ in calls] == [4 / 16, 5 / 16, 6 / 16, 7 / 16]


@pytest.mark.parametrize("annotated", [(1, 2), (1,), (2,)], ids=str)
def test_a_loss_is_told_which_classes_its_channels_are(annotated):
    for channels, _, kept in calls_of(annotated, first_step=0, total_steps=4):
        assert kept == (0, *annotated)
        assert channels == len(kept)


def trained_edges(edge_weight, annotated):
    """Train SAUNet for four steps; return its weights."""
    network = SAUNet(widths=(2, 4, 4), edge_weight=edge_weight)
    study = replace(STUDY, network=network)
    torch.manual_seed(0)
    made = build_network(study)
    fit(made, build_optimizer(made, study.training), plan_of(study, [case_of(annotated)]))
    return torch.cat([p.detach().flatten() for p in made.parameters()])


def test_the_edges_that_a_network_draws_are_taught_where_all_labels_are_annotated():
    for annotated, is_taught in (((1, 2), True), ((1,), False)):
        with_edges, without = (trained_edges(weight, annotated) for weight in (1.0, 0.0))
        assert torch.equal(with_edges, without) is not is_taught
