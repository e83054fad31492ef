"""What a cell has seen on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMOOTHED = 8  # steps over which the loss is averaged that says how much is learned


@dataclass
class History:
    """What a cell has seen so far; saved with each checkpoint, so that a resumed cell goes on."""

    train: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0
    peak_memory_bytes: int = 0  # of training alone
    kept_bytes: int = 0  # of it, weights that adapters keep formed
    diverged_at: int | None = None
    # Of the point of the curve that is not complete yet: the sum of losses, the loss on value
    # tokens of each step, and where the point began.
    pending_loss: float = 0.0
    value_losses: list[float] = field(default_factory=list)
    last_logged: int = 0
    # How much is learned: the first step's loss, those of the last steps, and the shares of
    # trainer.score_at_learned that have been reached.
    first_loss: float | None = None
    last_losses: list[float] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)

    def add_loss(self, loss: float) -> None:
        """The loss of a step that is done."""
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_losses = [*self.last_losses, loss][-SMOOTHED:]

    def scored_at(self, step: int) -> bool:
        """Whether the latest scores along the run are of that step."""
        return bool(self.scores) and self.scores[-1]["step"] == step

    def reach(self, shares: list[float], *, last: bool) -> list[float]:
        """The shares that the step which is done is the first to reach; remembers them.

        A share s is reached where the mean of the last SMOOTHED losses is below (1 - s) times the
        first one; 1 stands for the last step, as no loss falls below 0.
        """
        if self.first_loss is None:
            return []
        mean = sum(self.last_losses) / len(self.last_losses)
        found = [
            share
            for share in shares
            if share not in self.learned
            and (mean < (1 - share) * self.first_loss or (last and share == 1))
        ]
        self.learned = [*self.learned, *found]
        return found
