"""Maps of why: against networks worked by hand, and over every network of the catalogue."""

import pytest
import torch
from torch import nn

from client.explain import (
    attention_maps,
    explain,
    guided_backpropagation,
    levels,
    seg_grad_cam,
)
from common.errors import InputError
from common.modality.bank import set_modality
from common.networks import NETWORKS, build_network
from tests.support.studies import TINY, small_study


class ByHand(nn.Module):
    """a = ReLU(w x) in two channels, then two scores: (a_0, v a_0 - 2 a_1)."""

    def __init__(self, w=(1.0, -1.0), v=3.0, act=None):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.act = act or nn.ReLU(inplace=True)
        self.last = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor(w).reshape(2, 1, 1, 1))
            self.last.weight.copy_(torch.tensor([[1.0, 0.0], [v, -2.0]]).reshape(2, 2, 1, 1))

    def forward(self, x):
        return self.last(self.act(self.first(x)))


X = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).reshape(1, 1, 2, 2)
ALL = torch.ones(2, 2, dtype=torch.bool)


def plain_gradient(network, x, label, mask):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[0, label][mask].sum(), x)
    return gradient[0, 0]


def test_guided_back_propagation_of_a_network_worked_by_hand():
    # Score 1 is 3 ReLU(x) - 2 ReLU(-x). Its gradient is 3 where x > 0 and 2 where x < 0: there
    # the negative score falls. Guided, the -2 is stopped at the rectifier, and 0 remains.
    network = ByHand()
    torch.testing.assert_close(
        plain_gradient(network, X, 1, ALL), torch.tensor([[3.0, 2.0], [3.0, 0.0]])
    )
    guided = guided_backpropagation(network, X, 1, ALL)
    torch.testing.assert_close(guided, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert network.act.inplace  # as it was


def test_guided_back_propagation_where_a_rectifier_leaks():
    # LeakyReLU(0.1): below 0 the first channel leaks 0.1 * 3 of the score; the second's -2 is
    # stopped everywhere. w = 1 and -1 bring 3 and 0.3 to the voxel.
    network = ByHand(act=nn.LeakyReLU(0.1))
    guided = guided_backpropagation(network, X, 1, ALL)
    torch.testing.assert_close(guided, torch.tensor([[1.0, 0.1], [1.0, 0.1]]))


def test_only_voxels_of_the_mask_speak():
    mask = torch.tensor([[False, True], [True, False]])
    guided = guided_backpropagation(ByHand(), X, 1, mask)
    torch.testing.assert_close(guided, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_a_network_without_a_rectifier_is_told():
    with pytest.raises(InputError, match="no rectifier"):
        guided_backpropagation(ByHand(act=nn.Tanh()), X, 1, ALL)


def test_seg_grad_cam_of_a_network_worked_by_hand():
    # A_0 = ReLU(x) = (1, 0, .5, 0), A_1 = ReLU(-x) = (0, 2, 0, 0); alpha = (3, -2) times the
    # share of the mask. ReLU(3 A_0 - 2 A_1) = (3, 0, 1.5, 0); scaled (1, 0, .5, 0).
    network = ByHand()
    heat = seg_grad_cam(network, X, 1, ALL, network.act)
    torch.testing.assert_close(heat, torch.tensor([[1.0, 0.0], [0.5, 0.0]]))


def test_what_speaks_against_a_label_is_zero_and_not_inverted():
    network = ByHand(v=-3.0)
    heat = seg_grad_cam(network, X, 1, ALL, network.act)
    torch.testing.assert_close(heat, torch.zeros(2, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_explained(name):
    study = small_study(network=TINY[name], dimensions=TINY[name].dimensions[0])
    network = build_network(study).eval()
    set_modality(network, "ct")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    side = 2 * study.network.divisor
    image = torch.randn(1, 1, *[side] * study.dimensions)

    heats = explain(network, image, 1)

    for heat in heats:
        assert heat.values.shape == image.shape[2:], heat.name
        assert 0 <= float(heat.values.min()) <= float(heat.values.max()) <= 1 + 1e-6
    assert any(float(heat.values.max()) > 0 for heat in heats)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    hooks = [h for m in network.modules() for h in (*m._forward_hooks, *m._backward_hooks)]
    assert hooks == []


WITH_PLACES = ("attention_unet", "scse_unet", "cbam_unet", "nonlocal_unet", "glca_unet",
               "graph_unet", "aspp_nonlocal_unet")  # fmt: skip


@pytest.mark.parametrize("name", WITH_PLACES)
def test_attention_shows_its_own_maps(name):
    study = small_study(network=TINY[name])
    network = build_network(study).eval()
    maps = attention_maps(network, torch.randn(1, 1, 32, 32))
    assert maps
    assert all(m.shape == (32, 32) for m in maps.values())
    assert any(float(m.std()) > 0 for m in maps.values())


def test_the_levels_are_the_coarsest_and_the_finest():
    study = small_study(network=TINY["unet"])
    network = build_network(study).eval()
    found = levels(network, torch.randn(1, 1, 32, 32))
    sizes = {}
    for name, layer in found.items():
        layer.register_forward_hook(lambda m, i, o, n=name: sizes.update({n: o.shape[-1]}))
    network(torch.randn(1, 1, 32, 32))
    assert sizes == {"coarsest level": 8, "finest level": 32}
