"""DiNTS: what a search finds is the space with all else switched off."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.networks.dints import build_dints, build_dints_search
from common.study.dints import OPERATIONS, Dints, DintsSearch, sources

pytestmark = pytest.mark.usefixtures("in_double_precision")

SHAPE = {"width": 4, "blocks": 3, "depths": 3}
SURE = 40.0  # of a weight before the sigmoid or the softmax


def space_of(dimensions, seed=0):
    torch.manual_seed(seed)
    network = build_dints_search(
        DintsSearch(**SHAPE), dimensions=dimensions, channels=1, classes=3
    )
    return network.eval()


def decide(network, seed):
    """Make the space sure of one network, drawn at random among those that fit together."""
    generator = torch.Generator().manual_seed(seed)
    paths, operations = network.architecture
    with torch.no_grad():
        paths.copy_(torch.randn(paths.shape, generator=generator))
        operations.copy_(torch.randn(operations.shape, generator=generator))
    found = network.decoded()
    with torch.no_grad():
        paths.copy_((2.0 * torch.tensor(found[0]) - 1) * SURE)
        one_hot = torch.nn.functional.one_hot(torch.tensor(found[1]), operations.shape[-1])
        operations.copy_(one_hot * SURE)
    return found


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_space_that_is_sure_answers_as_the_network_that_is_read_out_of_it(dimensions, seed):
    space = space_of(dimensions)
    paths, operations = decide(space, seed)
    assert space.decoded() == (paths, operations)
    found = Dints(**SHAPE, paths=paths, operations=operations)
    assert found.problems() == []
    network = build_dints(found, dimensions=dimensions, channels=1, classes=3).eval()
    weights = space.state_dict()
    own = {name: weights[_in_the_space(name, operations)] for name in network.state_dict()}
    network.load_state_dict(own)
    x = torch.randn(2, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(9))

    torch.testing.assert_close(network(x), space(x))
    assert sum(p.numel() for p in network.parameters()) < sum(
        p.numel() for p in space.parameters()
    )


def _in_the_space(name, operations):
    """Name a tensor of what was found in the space, where its operation stands among all."""
    found = re.match(r"(dints_space\.cell_tree\.\((\d), (\d)\)\.op\.ops\.)0(.*)", name)
    if found is None:
        return name
    return f"{found[1]}{operations[int(found[2])][int(found[3])]}{found[4]}"


def test_paths_are_in_monais_order():
    for depths in (2, 3, 4):
        network = build_dints_search(
            DintsSearch(width=2, blocks=2, depths=depths), dimensions=2, channels=1, classes=2
        )
        space = network.dints_space
        theirs = list(zip(space.arch_code2in, space.arch_code2out, strict=True))
        assert sources(depths) == theirs


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_operations_of_a_path_are_as_many_as_a_study_may_name(dimensions):
    network = space_of(dimensions)

    assert network.architecture[1].shape[-1] == OPERATIONS[dimensions]


def test_an_operation_of_volumes_is_refused_for_slices():
    paths = ((1,) * 7,) * 3
    operations = ((1, 1, 1, 1, 1, 1, 4),) * 3

    assert Dints(**SHAPE, paths=paths, operations=operations).dimensions == (3,)
    assert Dints(**SHAPE, paths=paths).dimensions == (2, 3)


@pytest.mark.parametrize(
    ("field", "code", "said"),
    [
        ("paths", ((1,) * 7,) * 2, "expected 3 lists of 7"),
        ("paths", ((1,) * 6,) * 3, "expected 3 lists of 7"),
        ("paths", ((2,) * 7,) * 3, "from 0 to 1"),
        ("operations", ((5,) * 7,) * 3, "from 0 to 4"),
        ("paths", ((0,) * 7, (1,) * 7, (1,) * 7), "block 0 has none"),
        # the first block ends at the finest level only, the second begins at the next one
        ("paths", ((1, 0, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0, 0), (1,) * 7), "block 1 begins"),
    ],
)
def test_a_code_that_is_no_network_is_refused(field, code, said):
    (problem,) = Dints(**SHAPE, **{field: code}).problems()

    assert problem[0] == field
    assert said in problem[1]


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=10)
def test_whatever_is_read_out_is_a_network(seed):
    network = space_of(2)
    decide(network, seed)

    found = Dints(**SHAPE, **dict(zip(("paths", "operations"), network.decoded(), strict=True)))

    assert found.problems() == []


def test_memory_costs_nothing_at_the_start_and_less_with_fewer_paths():
    network, shape = space_of(2), (2, 1, 16, 16)
    network.entropy_weight, network.memory_weight = 0.0, 1.0
    assert network.penalty(shape, 0.0).item() == 0.0

    with torch.no_grad():
        network.architecture[0].fill_(SURE)
    everything = network.penalty(shape, 1.0).item()
    with torch.no_grad():
        network.architecture[0][:, 1:] = -SURE
    few = network.penalty(shape, 1.0).item()

    assert everything == pytest.approx(1.0, abs=1e-3)
    assert 0 < few < 0.7 * everything


def test_blocks_that_fit_each_other_have_less_entropy():
    network, shape = space_of(2), (2, 1, 16, 16)
    network.entropy_weight, network.memory_weight = 1.0, 0.0
    ends = sources(3)
    with torch.no_grad():
        network.architecture[0].fill_(0.0)
        unsure = network.penalty(shape, 1.0).item()
        for row in network.architecture[0]:
            for i, (start, end) in enumerate(ends):
                row[i] = SURE if start == end == 0 else -SURE
    fitting = network.penalty(shape, 1.0).item()

    assert fitting < 0.1 * unsure
