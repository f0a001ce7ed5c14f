from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from monai.networks.nets import DynUNet as MonaiDynUNet
from torch.nn import functional

from client.device import in_fast_layout
from common.errors import InputError, StudyError
from common.losses.deep import answers_of, deep_loss
from common.modality.bank import ModalityNorm, fold, set_modality
from common.networks import NETWORKS, build_network
from common.networks.rows import COMPOSED
from common.networks.view import NamedArrays
from common.study import Label, Sharing, canonical_json, parse_study
from common.study.networks import DynUNet
from tests.support.studies import TINY, small_study

DOUBLE = pytest.mark.usefixtures("in_double_precision")
EACH = pytest.mark.parametrize("name", NETWORKS)
PLACES = [(name, d) for name in NETWORKS for d in TINY[name].dimensions]
SLOW = {("swin_unetr", 3), ("pretrained_unet", 3)}  # at their smallest, 64 voxels a side
# where learning by heart is tried by default; one class serves both dimensions
TRAINED = {p for p in PLACES if p[1] == TINY[p[0]].dimensions[0]}
# one of each way to be built; to export takes a second or two
EXPORTED = {
    "unet", "dynunet", "attention_unet", "graph_unet", "vnet", "bcdu_net", "mednext",
    "detect_then_segment", "sa_unet",
}  # fmt: skip


def everywhere(slow):
    """Parametrise over every network in every dimension, some of them only when asked for."""
    return pytest.mark.parametrize(
        ("name", "dimensions"),
        [pytest.param(*p, marks=[pytest.mark.slow] if p in slow else []) for p in PLACES],
        ids=[f"{name}-{d}-D" for name, d in PLACES],
    )


WHERE = everywhere(SLOW)
# where every norm is tried by default: the rows that are one class, in one dimension
ROWS = {entry.name for entry in COMPOSED}
NORMS_TRIED = {p for p in PLACES if p[0] not in ROWS or p in TRAINED}


def study_for(name, dimensions=None, **changes):
    network = TINY[name]
    dimensions = dimensions or network.dimensions[0]
    return small_study(network=network, dimensions=dimensions, **changes)


def logits_of(network, x):
    """Return the finest answer."""
    return answers_of(network(x))[0]


def batch(study, samples=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    side = 2 * study.network.divisor
    return torch.randn(samples, study.channels, *[side] * study.dimensions, generator=generator)


def test_every_entry_has_a_small_configuration_here():
    assert set(TINY) == set(NETWORKS)


@EACH
def test_an_entry_says_what_it_is_and_where_it_comes_from(name):
    entry = NETWORKS[name]

    assert entry.name == name
    assert entry.summary
    assert any(mark in entry.source for mark in ("arXiv:", "doi:"))


@WHERE
def test_space_is_kept_and_every_class_has_a_channel(name, dimensions):
    study = study_for(name, dimensions, channels=2)
    x = batch(study)

    answer = logits_of(build_network(study), x)

    assert answer.shape == (2, 3, *x.shape[2:])


@everywhere((set(PLACES) - NORMS_TRIED) | SLOW)
@pytest.mark.parametrize("norm", ["group", "batch", "instance", "layer"])
def test_every_norm_can_be_built_and_trained(name, dimensions, norm):
    study = study_for(name, dimensions)
    network = build_network(replace(study, network=replace(study.network, norm=norm)))

    set_modality(network, "ct")
    sum(a.square().mean() for a in answers_of(network(batch(study)))).backward()

    for name_, parameter in network.named_parameters():
        if ".bank.mr." in name_:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name_
            assert torch.isfinite(parameter.grad).all()


@WHERE
def test_every_class_has_its_own_piece_of_the_last_layer(name, dimensions):
    study = study_for(name, dimensions)
    table = NamedArrays(build_network(study), study).table

    heads = {n: p for n, p in table.items() if p.kind.startswith("head:")}

    assert {p.kind for p in heads.values()} == HEADS
    assert all(p.kind == f"head:{n.partition('#')[2]}" for n, p in heads.items())


@WHERE
def test_a_piece_of_the_last_layer_is_that_of_its_class_alone(name, dimensions):
    study = study_for(name, dimensions)
    network, x = build_network(study).eval(), batch(study)
    arrays = NamedArrays(network, study)
    pieces, before = arrays.read(lambda kind: kind == "head:liver"), network(x)
    layers = {n.partition("#")[0].rpartition(".")[0] for n in pieces}

    changed = []
    for layer in layers:
        mine = {n: a for n, a in pieces.items() if n.startswith(f"{layer}.")}
        arrays.write({n: a + 1 for n, a in mine.items()})
        differs = (network(x) != before).flatten(2).any(2).any(0)
        changed.append(differs.tolist())
        arrays.write(mine)

    # of a cascade's first part the answer sees every class
    assert [False, True, False] in changed


@WHERE
def test_weights_cross_the_wire_bit_for_bit(name, dimensions):
    study = study_for(name, dimensions)
    network, other = (build_network(replace(study, seed=seed)).eval() for seed in (1, 2))

    sent = NamedArrays(network, study).read()
    NamedArrays(other, study).write(sent)

    again = NamedArrays(other, study).read()
    assert {n: a.tobytes() for n, a in again.items()} == {
        n: a.tobytes() for n, a in sent.items()
    }
    assert torch.equal(network(batch(study)), other(batch(study)))


@WHERE
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_payload_is_every_parameter_and_floating_buffer_once(name, dimensions, norm):
    study = study_for(name, dimensions)
    study = replace(study, network=replace(study.network, norm=norm))
    network = build_network(study)

    sent = NamedArrays(network, study)

    tensors = {id(t): t for t in network.parameters()}
    tensors |= {id(t): t for t in network.buffers() if t.is_floating_point()}
    expected = sum(t.numel() * t.element_size() for t in tensors.values())
    assert sum(a.nbytes for a in sent.read().values()) == expected
    assert sum(p.size_bytes for p in sent.table.values()) == expected
    assert {a.dtype.kind for a in sent.read().values()} == {"f"}


@EACH
def test_what_was_read_is_a_copy(name):
    study = study_for(name)
    network = build_network(study)
    arrays = NamedArrays(network, study)
    before = arrays.read()

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)

    after = arrays.read()
    assert all((after[n] != before[n]).any() for n in before if "running_" not in n)


@EACH
def test_wrong_weights_change_nothing(name):
    study = study_for(name)
    arrays = NamedArrays(build_network(study), study)
    before = arrays.read()
    first, *_, last = before

    for wrong in (before[last][..., None], before[last].astype("f8")):
        with pytest.raises(Exception, match=r"expected"):
            arrays.write({first: before[first] + 1, last: wrong})

    assert all((arrays.read()[n] == before[n]).all() for n in before)


@WHERE
def test_initial_weights_are_the_seeds_and_nothing_elses(name, dimensions):
    study = study_for(name, dimensions)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = NamedArrays(build_network(study), study).read()
    assert torch.equal(torch.get_rng_state(), before)

    torch.manual_seed(6)
    two = NamedArrays(build_network(study), study).read()
    other = NamedArrays(build_network(replace(study, seed=2)), study).read()

    assert all((one[n] == two[n]).all() for n in one)
    assert any((one[n] != other[n]).any() for n in one)


@WHERE
@DOUBLE
def test_a_mixed_batch_is_what_separate_batches_are(name, dimensions):
    study = study_for(name, dimensions)
    network, x = build_network(study), batch(study, 3)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if ".bank.mr." in key:
                parameter.mul_(1.5)

    set_modality(network, ("mr", "ct", "mr"))
    mixed = logits_of(network, x)

    set_modality(network, "mr")
    torch.testing.assert_close(mixed[[0, 2]], logits_of(network, x[[0, 2]]))
    set_modality(network, "ct")
    torch.testing.assert_close(mixed[[1]], logits_of(network, x[[1]]))


@WHERE
@DOUBLE
def test_a_folded_network_is_plain_and_answers_the_same(name, dimensions):
    study = study_for(name, dimensions)
    network = build_network(study).eval()
    set_modality(network, "mr")

    plain = fold(network, "mr")

    assert torch.equal(plain(batch(study)), network(batch(study)))
    assert not any(isinstance(module, ModalityNorm) for module in plain.modules())


@WHERE
@DOUBLE
def test_a_network_answers_the_same_in_the_fast_layout(name, dimensions):
    study = study_for(name, dimensions)
    network, x = build_network(study).eval(), batch(study)
    before = network(x)

    for device in ("cpu", "cuda"):  # the layout, not the place
        torch.testing.assert_close(in_fast_layout(network, device)(x), before)


@DOUBLE
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in EXPORTED else [pytest.mark.slow])
        for name in sorted(set(NETWORKS) - {"dints_search"})
    ],
)
def test_a_folded_network_can_be_exported(name):
    study = study_for(name)
    plain = fold(build_network(study), "ct").eval()
    x = batch(study)

    exported = torch.export.export(plain, (x,)).module()

    torch.testing.assert_close(exported(x), plain(x))


# of noise, what lies outside its box is too fine for the locator
LEARNT = {"detect_then_segment": {"region": 1.0}}
# side of blocks of equal voxels, where no skip is as fine as the image
BLOCKS = {"pretrained_unet": 2, "dints": 2, "dints_search": 2}

# of networks that learn by heart with another
LEARNING_RATES = {
    "pretrained_unet": 1e-2,
    "unet_plus_plus": 4e-2,
    "dints_search": 1e-2,
}
# of networks that need more; a mixture of all paths learns more slowly than one
STEPS = {"dints_search": 120}


@everywhere(set(PLACES) - TRAINED)
def test_two_phantoms_can_be_learnt_by_heart(name, dimensions):
    study = study_for(name, dimensions)
    study = replace(study, network=replace(study.network, **LEARNT.get(name, {})))
    network, x, block = build_network(study), batch(study), BLOCKS.get(name, 1)
    if block > 1:
        x = functional.interpolate(
            x[..., *[slice(None, None, block)] * dimensions], x.shape[2:]
        )
    truth = (x[:, 0] > 0.5).long() + (x[:, 0] > 1.5).long()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATES.get(name, 2e-2))
    set_modality(network, ("ct", "mr"))

    steps = STEPS.get(name, 60)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = deep_loss(torch.nn.functional.cross_entropy, answers_of(network(x)), truth)
        loss.backward()
        optimiser.step()
        if loss.item() < 0.25:
            return
    pytest.fail(f"after {steps} steps the loss is still {loss.item():.3f}")


@WHERE
def test_a_size_that_the_network_cannot_take_is_refused_with_the_study(name, dimensions):
    study = study_for(name, dimensions)
    odd = replace(study, training=replace(study.training, patch=(33,) * dimensions))

    with pytest.raises(StudyError, match=f"network {name} needs sides that are multiples of"):
        parse_study(canonical_json(odd))


SHARED_NORMS = {
    "per_modality": {"shared", "modality:ct", "modality:mr"},
    "everything": {"shared"},
    "statistics_local": {"shared", "site"},
    "local": {"shared", "site"},
}
HEADS = {"head:background", "head:liver", "head:spleen"}


@EACH
@pytest.mark.parametrize("sharing", SHARED_NORMS)
def test_sharing_decides_who_averages_the_norms(name, sharing):
    study = study_for(name, sharing=Sharing(norm=sharing))
    study = replace(study, network=replace(study.network, norm="batch"))

    table = NamedArrays(build_network(study), study).table

    assert {p.kind for p in table.values()} == SHARED_NORMS[sharing] | HEADS
    statistics = {p.kind for n, p in table.items() if "running_" in n}
    expected = {"per_modality": {"modality:ct", "modality:mr"}, "everything": {"shared"}}
    assert statistics == expected.get(sharing, {"site"})
    assert all(".bank." in n for n, p in table.items() if p.kind.startswith("modality:"))


@EACH
def test_only_the_wanted_kinds_are_read(name):
    study = study_for(name)
    arrays = NamedArrays(build_network(study), study)

    found = arrays.read(lambda kind: kind == "modality:ct")

    assert found
    assert all(".bank.ct." in name for name in found)


def count(study):
    return sum(p.numel() for p in build_network(study).parameters())


def test_dynunet_has_as_many_parameters_as_monais_own():
    # 16-32-64-128 with two structures; affine norms have as many parameters whatever they are.
    study = small_study(dimensions=3, network=DynUNet(), sharing=Sharing(norm="everything"))
    monai = MonaiDynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        filters=[16, 32, 64, 128],
        norm_name=("instance", {"affine": True}),
    )

    assert count(study) == sum(p.numel() for p in monai.parameters())
    assert count(study) == pytest.approx(1.4e6, rel=0.05)


def test_dynunet_has_as_many_parameters_as_counted_by_hand():
    # Without biases but in the last layer: per level two 3x3x3 convolutions, up by 2x2x2
    # transposed ones, two norms of 2 numbers a channel, a last 1x1x1 convolution.
    classes = 3
    steps = pairwise((1, 16, 32, 64, 128))
    down = sum(27 * (a * b + b * b) + 4 * b for a, b in steps)
    steps = pairwise((16, 32, 64, 128))
    up = sum(8 * b * a + 27 * (2 * a * a + a * a) + 4 * a for a, b in steps)
    study = small_study(dimensions=3, network=DynUNet(), sharing=Sharing(norm="everything"))

    assert count(study) == down + up + 16 * classes + classes


def test_banks_add_one_set_of_norms_and_nothing_else():
    one = small_study(sharing=Sharing(norm="everything"))
    table = NamedArrays(build_network(small_study()), small_study()).table
    bank = sum(p.size_bytes // 4 for p in table.values() if p.kind == "modality:mr")

    assert count(small_study()) == count(one) + bank


def test_another_vocabulary_is_another_head():
    study = small_study(labels=(Label(name="liver"),))

    table = NamedArrays(build_network(study), study).table

    assert {p.kind for p in table.values() if "head" in p.kind} == {
        "head:background",
        "head:liver",
    }


def test_an_unknown_network_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"network 'unett' is not known.*did you mean unet"):
        NETWORKS["unett"]


@EACH
def test_a_dimension_in_which_a_network_does_not_exist_is_refused_with_the_study(name):
    missing = {2, 3} - set(TINY[name].dimensions)
    for dimensions in missing:
        with pytest.raises(StudyError, match=rf"network.name: {name} exists in \d-D only"):
            parse_study(canonical_json(study_for(name, dimensions)))
