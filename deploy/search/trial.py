"""What is kept of each trial."""

from dataclasses import dataclass, field
from typing import Literal

from deploy.search.space import Value

State = Literal["complete", "pruned", "infeasible", "failed", "repeated", "searched"]
TRAINED = ("complete", "pruned", "failed")  # what counts towards the trials that were asked for


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a federation, as far as it was taken.

    Attributes:
        dice: Validation Dice of the best round: the number by which the run chose it.
        by_modality: The same scores, the mean over the sites within each modality.
        best_round: The round.
        parameters: Trainable numbers of the network, norms of all modalities among them.
        round_bytes: Sent and received in the last closed round, all sites together.
        seconds: Of all closed rounds.
        curve: Dice of the weights after each scored round, by its number.
    """

    dice: float
    by_modality: dict[str, float]
    best_round: int
    parameters: int
    round_bytes: int
    seconds: float
    curve: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate.

    Attributes:
        number: Counted from 1, in the order in which they were asked.
        state: How it ended. ``pruned``: stopped as hopeless; ``infeasible``: no study, so
            nothing was trained; ``repeated``: the same choice as an earlier one, whose result
            it has. ``searched``: a whole space, out of which the next trial's network was read.
        point: What was chosen.
        words: The same for people.
        why: Reason of every state but ``complete``.
        outcome: What came of it, where anything did.
        stopped: Whether the outcome is that of a federation that was stopped.
    """

    number: int
    state: State
    point: dict[str, Value] = field(default_factory=dict)
    words: str = ""
    why: str = ""
    outcome: Outcome | None = None
    stopped: bool = False
