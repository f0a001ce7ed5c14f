"""Why a network drew what it drew: maps over one image, made and kept at the site.

Three ways, for any network of the catalogue: what the feature maps of a level speak for
(Seg-Grad-CAM), which voxels speak for it (guided back-propagation), and what a network with
attention lets through (its own maps).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from common.networks.blocks.parts import AttentionMap, Head
from common.networks.composable import Composed

RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.ReLU6, nn.CELU)
FLAT = 4  # axes of a batch of 2-D maps


@dataclass(frozen=True, eq=False)
class Heat:
    """One map over an image.

    Attributes:
        name: How it was made, and where in the network.
        values: From 0 (does not speak for it) to 1 (speaks most), on the image's grid.
    """

    name: str
    values: Float[Tensor, " *space"]


def explain(
    network: nn.Module,
    image: Float[Tensor, "1 C *space"],
    label: int,
    mask: Bool[Tensor, " *space"] | None = None,
) -> list[Heat]:
    """Make every map of one label.

    Args:
        network: In evaluation; its modality is set. Left as it was.
        image: Preprocessed, of a size that the network takes.
        label: Class index.
        mask: Voxels whose scores are explained; by default those that the network gives the
            label, or all where it gives it to none.

    Raises:
        InputError: If the network has no rectifier that guided back-propagation could change.
    """
    if mask is None:
        with torch.no_grad():
            mask = network(image)[0].argmax(0) == label
    if not bool(mask.any()):
        mask = torch.ones_like(mask)
    heats = [
        Heat(f"seg-grad-cam, {where}", seg_grad_cam(network, image, label, mask, layer))
        for where, layer in levels(network, image).items()
    ]
    heats.append(
        Heat("guided back-propagation", guided_backpropagation(network, image, label, mask))
    )
    heats += [Heat(f"attention, {n}", m) for n, m in attention_maps(network, image).items()]
    return heats


# --- gradients -------------------------------------------------------------------------------


def seg_grad_cam(
    network: nn.Module,
    image: Float[Tensor, "1 C *space"],
    label: int,
    mask: Bool[Tensor, " *space"],
    layer: nn.Module,
) -> Float[Tensor, " *space"]:
    """Return ReLU(sum_k alpha_k A_k) of a layer's maps A, alpha_k the mean of dy / dA_k.

    y is the sum of the label's scores over the mask; over all voxels it is Grad-CAM.
    Vinogradova et al. 2020, arXiv:2002.11434; Selvaraju et al. 2017, arXiv:1610.02391,
    equations 1 and 2. Not inverted: what speaks against the label is 0.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        # a layer after this one may write into its input
        return output.clone()

    with _hooked([layer.register_forward_hook(keep)]), torch.enable_grad():
        score = network(image.detach().requires_grad_())[0, label][mask].sum()
        (gradient,) = torch.autograd.grad(score, kept[-1])
    gradient, maps = _as_volume(gradient, image), _as_volume(kept[-1].detach(), image)
    weights = gradient.mean(dim=tuple(range(2, gradient.ndim)), keepdim=True)
    heat = (weights * maps).sum(1, keepdim=True).relu()
    return _scaled(_enlarged(heat, image.shape[2:])[0, 0])


def guided_backpropagation(
    network: nn.Module,
    image: Float[Tensor, "1 C *space"],
    label: int,
    mask: Bool[Tensor, " *space"],
) -> Float[Tensor, " *space"]:
    """Return how far each voxel raises the label's scores, along rising paths only.

    Negative gradients are zeroed at every rectifier on the way back (Springenberg et al. 2015,
    arXiv:1412.6806); the largest channel of the image counts.

    Raises:
        InputError: If the network has no rectifier, where this would be the plain gradient.
    """
    rectifiers = [m for m in network.modules() if isinstance(m, RECTIFIERS)]
    if not rectifiers:
        raise InputError(
            "the network has no rectifier that back-propagation could be guided at"
        )

    def rising(_module: nn.Module, inward: Sequence[Tensor | None], _outward: Any) -> Any:
        return tuple(g if g is None else g.clamp(min=0) for g in inward)

    x = image.detach().clone().requires_grad_()
    hooks = [m.register_full_backward_hook(rising) for m in rectifiers]
    with _hooked(hooks), _not_in_place(network), torch.enable_grad():
        score = network(x)[0, label][mask].sum()
        (gradient,) = torch.autograd.grad(score, x)
    return _scaled(gradient[0].relu().amax(0))


# --- attention -------------------------------------------------------------------------------


def attention_maps(
    network: nn.Module, image: Float[Tensor, "1 C *space"]
) -> dict[str, Float[Tensor, " *space"]]:
    """Return what each attention lets through at each place, by the name of its module.

    Of weights by channel there is nothing to see in space; they are left out. Of weights
    between places or nodes and places, the most that any of them gives to each place.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            kept[name] = output.detach()

        return hook

    named = [(n, m) for n, m in network.named_modules() if isinstance(m, AttentionMap)]
    hooks = [module.register_forward_hook(keep(name)) for name, module in named]
    with _hooked(hooks), torch.no_grad():
        network(image)
    found = {}
    for name, weights in kept.items():
        seen = _in_space(weights, image.shape[2:])
        if seen is not None:
            found[name.removesuffix(".map")] = _scaled(seen)
    return found


def _in_space(weights: Tensor, sides: Sequence[int]) -> Tensor | None:
    if weights.ndim == len(sides) + 2:
        if prod(weights.shape[2:]) == 1:
            return None
        return _enlarged(weights.mean(1, keepdim=True), sides)[0, 0]
    asked = weights[0].reshape(-1, weights.shape[-1]).amax(0)  # (places,)
    shape = _shape_of(asked.numel(), sides)
    return None if shape is None else _enlarged(asked.reshape(1, 1, *shape), sides)[0, 0]


def _shape_of(places: int, sides: Sequence[int]) -> tuple[int, ...] | None:
    """Return the sides of a map of so many places, as the image halved again and again."""
    shape = tuple(sides)
    while prod(shape) > places and all(side % 2 == 0 for side in shape):
        shape = tuple(side // 2 for side in shape)
    return shape if prod(shape) == places else None


# --- where -----------------------------------------------------------------------------------


def levels(network: nn.Module, image: Float[Tensor, "1 C *space"]) -> dict[str, nn.Module]:
    """Return what makes the smallest map, and what makes the last one before the head.

    Names are ``coarsest level`` and ``finest level``. Of a network of chosen parts they are
    known; of another, the last layer that made a map of the smallest and of the largest size.
    """
    if isinstance(network, Composed):
        bottom = network.down[-1] if isinstance(network.bottom, nn.Identity) else network.bottom
        return {"coarsest level": bottom, "finest level": network.join[0]}
    sizes: list[tuple[int, nn.Module]] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _is_map(output, image):
            sizes.append((prod(output.shape[2:]), module))

    heads = {id(m.convolution) for m in network.modules() if isinstance(m, Head)}
    leaves = [m for m in network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(note) for m in leaves]
    with _hooked(hooks), torch.enable_grad():
        network(image.detach().requires_grad_())
    inner = [(size, m) for size, m in sizes if id(m) not in heads]
    if not heads:
        inner = inner[:-1]  # the last convolution is the head
    smallest = min(size for size, _ in inner if size > 1)
    largest = max(size for size, _ in inner)
    found = {"coarsest level": [m for size, m in inner if size == smallest][-1]}
    found["finest level"] = [m for size, m in inner if size == largest][-1]
    return found


def _is_map(output: Tensor, image: Tensor) -> bool:
    """Whether a layer's output lies over the image, or over its slices one by one."""
    if output.ndim == image.ndim:
        return True
    return output.ndim == FLAT == image.ndim - 1 and output.shape[0] == image.shape[-1]


def _as_volume(maps: Tensor, image: Tensor) -> Tensor:
    """Put the maps of slices, (D, C, H, W), together; others stay as they are."""
    return maps if maps.ndim == image.ndim else maps.permute(1, 2, 3, 0)[None]


# --- helpers ---------------------------------------------------------------------------------


@contextmanager
def _hooked(hooks: Sequence[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@contextmanager
def _not_in_place(network: nn.Module) -> Iterator[None]:
    """Let no activation write into its input, which a backward hook forbids."""
    changed = [m for m in network.modules() if getattr(m, "inplace", False)]
    for module in changed:
        module.inplace = False  # type: ignore[assignment] # a flag of torch's activations
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment] # as it was


def _enlarged(x: Tensor, sides: Sequence[int]) -> Tensor:
    mode = "bilinear" if x.ndim == FLAT else "trilinear"
    return functional.interpolate(x, tuple(sides), mode=mode, align_corners=False)


def _scaled(heat: Tensor) -> Tensor:
    largest = float(heat.max())
    return heat.detach() / largest if largest > 0 else heat.detach()
