"""Federated methods, as rows: site rule x aggregate x server step.

What is shared is the study's ``sharing`` section, orthogonal to these rows.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Federated averaging: plain local steps, mean weighted by cases.

    Source: McMahan et al. Communication-Efficient Learning of Deep Networks from
    Decentralized Data. AISTATS 2017. arXiv:1602.05629, algorithm 1.
    """

    name: Literal["fedavg"] = "fedavg"

    @property
    def proximal_mu(self) -> float:
        """Factor of the proximal term; none here."""
        return 0.0

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """Federated averaging with a proximal term in the local loss.

    Source: Li et al. Federated Optimization in Heterogeneous Networks. MLSys 2020.
    arXiv:1812.06127, equation 2: adds mu / 2 times the squared distance to the round's
    weights.

    Attributes:
        mu: Factor of the proximal term.
    """

    name: Literal["fedprox"] = "fedprox"
    mu: float = 0.01

    @property
    def proximal_mu(self) -> float:
        """Factor of the proximal term."""
        return self.mu

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong)."""
        return [] if self.mu >= 0 else [("mu", f"is {self.mu}, expected 0 or more")]


MethodConfig = FedAvg | FedProx
METHODS: tuple[type[FedAvg] | type[FedProx], ...] = (FedAvg, FedProx)
