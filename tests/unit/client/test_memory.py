"""A training step that cannot fit is refused before a case is read, with what could."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from client import memory
from client.memory import check_memory, free_bytes, kept_bytes, largest_patch, least_bytes
from client.session import Session
from common.errors import TooLargeError
from common.messages import Context
from common.modality.bank import set_modality
from common.networks import NETWORKS, build_network
from common.study import Training
from tests.support.studies import TINY, small_study

CPU = torch.device("cpu")
# built on tensors that have a device of their own
WITHOUT = {"dints_search", "swin_unetr"}
MEMINFO = "MemTotal: 9999 kB\nMemAvailable:    {} kB\n"


def study_of(name="unet", **training):
    network = TINY[name]
    side = 2 * network.divisor
    dimensions = network.dimensions[0]
    values = {"patch": (side,) * dimensions, "batch": 2, **training}
    return small_study(network=network, dimensions=dimensions, training=Training(**values))


def test_what_two_layers_keep_is_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.LeakyReLU(), nn.Conv2d(3, 2, 1))
    image = torch.zeros(1, 1, 8, 8)

    # the image for the first weight, then the maps before and after the rectifier
    assert kept_bytes(network, image) == 4 * 64 * (1 + 3 + 3)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - WITHOUT))
def test_a_pass_without_numbers_keeps_what_a_real_one_does(name):
    study = study_of(name)
    network = build_network(study).train()
    set_modality(network, "ct")
    image = torch.randn(2, 1, *study.training.patch)
    weights = sum(p.nbytes for p in network.parameters())

    # up to what some layers keep of their input for a backward pass of another form
    assert least_bytes(study) - 3 * weights == pytest.approx(
        kept_bytes(network, image), rel=0.1
    )


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_of_a_network_that_needs_numbers_nothing_is_said(name, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1)

    assert least_bytes(study_of(name)) is None
    check_memory(study_of(name), CPU)


def test_half_is_counted_of_a_step_in_16_bits():
    study = study_of()
    weights = 3 * sum(p.nbytes for p in build_network(study).parameters())

    assert 2 * (least_bytes(study, mixed=True) - weights) == pytest.approx(
        least_bytes(study) - weights, abs=1
    )


def test_what_is_free_is_what_the_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes(CPU) is None

    memory.MEMINFO.write_text(MEMINFO.format(1234))
    assert free_bytes(CPU) == 1234 * 1024


def test_a_step_that_fits_is_let_through_to_the_byte(monkeypatch):
    study = study_of(patch=(64, 64), batch=2)
    monkeypatch.setattr(memory, "free_bytes", lambda _device: least_bytes(study))
    check_memory(study, CPU)

    monkeypatch.setattr(memory, "free_bytes", lambda _device: least_bytes(study) - 1)
    with pytest.raises(TooLargeError):
        check_memory(study, CPU)


def test_the_refusal_names_the_largest_patch_that_could_fit(monkeypatch):
    study = study_of(patch=(512, 256), batch=2)
    free = least_bytes(replace(study, training=replace(study.training, patch=(128, 256))))
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free)

    with pytest.raises(TooLargeError) as caught:
        check_memory(study, CPU)

    fitting = largest_patch(study, free)
    said = str(caught.value)
    assert f"patch {list(fitting)} could fit" in said
    assert "2 patches of [512, 256]" in said
    assert least_bytes(replace(study, training=replace(study.training, patch=fitting))) <= free
    assert all(side % study.network.divisor == 0 for side in fitting)
    assert fitting[0] * fitting[1] >= 0.9 * 128 * 256


def test_where_no_patch_fits_that_is_said(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)

    with pytest.raises(TooLargeError, match="no smaller patch would fit"):
        check_memory(study_of(), CPU)


def test_no_case_is_read_for_a_step_that_cannot_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)

    with pytest.raises(TooLargeError, match="at least"):
        Session(None, study_of(), Context(run="r", study="", round=1), tmp_path, CPU)
