"""The critic of SegAN: it tells what a network marks from the truth, and stays at its site.

Source: Xue et al. SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image
Segmentation. Neuroinformatics 16, 2018. arXiv:1706.01805, the multi-scale L1 loss; the clamp of
the weights as in the authors' code. There each class has a network and a critic of its own;
here one critic sees the masked images of all classes side by side. Its layers are those of
MONAI's PatchDiscriminator, with instance norms without parameters, which a clamp would spoil
and which need no statistics of a small batch; without its last one, which judges real or fake:
SegAN has no such layer, and having no norm it would grow to outweigh all other scales.
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor
from torch.nn import functional

from client.state import load_optimizer, optimizer_arrays, part
from common.study.schemes import SegAN
from common.study.study import Study
from common.tensors import Weights

CRITIC, OPTIMIZER = "critic/", "optimizer/"
BETAS = (0.5, 0.999)  # Adam's, as in the authors' code


@final
class Adversary:
    """One site's critic and its optimiser.

    Between its own steps its parameters ask for no gradient, so that the network's step leaves
    none there.

    Args:
        config: Of the study.
        study: Dimensions, channels and classes.
        device: Where the network is.
        seed: Of the initial critic.

    Attributes:
        critic: Answers with a list of feature maps.
        optimizer: Of all its parameters.
    """

    def __init__(self, config: SegAN, *, study: Study, device: torch.device, seed: int) -> None:
        self._config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = PatchDiscriminator(
                spatial_dims=study.dimensions,
                channels=config.width,
                in_channels=study.channels * len(study.labels),
                num_layers_d=config.layers,
                norm="INSTANCE",
            )
            del critic.final_conv
        self.critic = critic.to(device).requires_grad_(requires_grad=False)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), betas=BETAS)
        self._initial = self.state()
        self._batch: tuple[Tensor, Tensor] | None = None

    def distance(self, answer: Tensor, truth: Tensor) -> Tensor:
        """Return the mean over scales of the mean absolute difference.

        Args:
            answer: Images masked by probabilities, see :func:`masked`.
            truth: The same images masked by the truth.
        """
        scales = zip([answer, *self.critic(answer)], [truth, *self.critic(truth)], strict=True)
        return torch.stack([functional.l1_loss(one, other) for one, other in scales]).mean()

    def penalty(self, x: Tensor, logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
        """Return the weighted distance and remember the batch for :meth:`learn`.

        To be called outside automatic mixed precision: the critic computes in float32.

        Args:
            x: Images (B, I, *space).
            logits: Of the finest answer (B, C, *space).
            classes: True classes (B, *space).
            known: Which classes each case's site annotates (B, C).
        """
        truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)
        marked = masked(x, logits.float().softmax(1), known)
        true = masked(x, truth.float(), known)
        self._batch = marked.detach(), true
        return self._config.weight * self.distance(marked, true)

    def learn(self, rate: float) -> None:
        """Do one step that makes the distance of the last batch larger.

        Args:
            rate: The network's learning rate in this step.
        """
        if self._batch is None:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._config.learning_rate
        self.critic.requires_grad_(requires_grad=True)
        (-self.distance(*self._batch)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.critic.requires_grad_(requires_grad=False)
        for parameter in self.critic.parameters():
            parameter.clamp_(-self._config.clamp, self._config.clamp)
        self._batch = None

    # --- what is kept at the site ------------------------------------------------------------

    def state(self, *, optimizer: bool = True) -> Weights:
        """Copy the critic out, and its optimiser if asked."""
        arrays = {
            CRITIC + name: value.cpu().numpy().copy()
            for name, value in self.critic.state_dict().items()
        }
        if optimizer:
            held = optimizer_arrays(self.optimizer, self.critic)
            arrays |= {OPTIMIZER + name: array.copy() for name, array in held.items()}
        return arrays

    def load(self, arrays: Weights) -> None:
        """Replace critic and optimiser by what :meth:`state` copied out."""
        critic = {n: torch.from_numpy(a) for n, a in part(arrays, CRITIC).items()}
        self.critic.load_state_dict(critic)
        load_optimizer(self.optimizer, self.critic, part(arrays, OPTIMIZER))

    def forget(self) -> None:
        """Forget the optimiser's state."""
        self.optimizer.state.clear()

    def reset(self) -> None:
        """Begin anew: the initial critic, nothing in its optimiser."""
        self.load(self._initial)


def masked(
    x: Float[Tensor, "B I *space"],
    shares: Float[Tensor, "B C *space"],
    known: Bool[Tensor, "B C"],
) -> Float[Tensor, "B CI *space"]:
    """Return the image times each structure's share, side by side; unknown ones are zero."""
    seen = shares * known.reshape(*known.shape, *[1] * (x.ndim - 2))
    return (x[:, None] * seen[:, 1:, None]).flatten(1, 2)
