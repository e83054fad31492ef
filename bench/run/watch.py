"""What happens around the steps of a cell's training, and what of it is recorded and shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from bench.run import distributed, interrupts
from bench.run.history import History
from bench.run.progress import Progress
from bench.run.trainer import CellTrainer

Log = Callable[[int, Mapping[str, float]], None]
RARE = 20  # times as long as a checkpoint took go by to the next: they cost a twentieth at most


class Watch(TrainerCallback):
    """Restarts, curves, scores along the run, checkpoints, and leaving early where asked to."""

    def __init__(
        self,
        trainer: CellTrainer,
        *,
        score: Callable[[], dict[str, float]] | None,
        progress: Progress,
        log: Log,
        resumed: bool,
    ) -> None:
        self.trainer, self.history, self.settings = trainer, trainer.history, trainer.settings
        self.score, self.score_steps = score, frozenset(self.settings["score_steps"])
        self.progress, self.log = progress, log
        self.resumed = self.saved = resumed
        self._since = self._saved_at = self._took = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the memory watch; after a resume, continue the curve."""
        if self.resumed:
            self.trainer.resume_curve()
        self.progress.start(state.max_steps, state.global_step)
        self.trainer.start_memory_watch()
        self._since = self._saved_at = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the step, restart where due, score at the chosen steps, and ask for checkpoints."""
        self.trainer.guard()
        step, last = state.global_step, state.global_step == state.max_steps
        self.trainer.close_step()
        self.trainer.after_step(step, last=last)
        reached = self.history.reach(self.settings["score_at_learned"], last=last)
        if self.score is not None and (reached or step in self.score_steps):
            self._score(step, reached)
        due, leaving = self._agree(step, last)
        control.should_save = due or leaving
        if control.should_save:
            self._stop_clock()
        if leaving:
            control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kw: Any
    ) -> None:
        """Add a point to the training curve; a loss that is not finite ends the run as diverged."""
        if logs is None or "loss" not in logs:
            return
        self._stop_clock()
        loss, norm = logs["loss"], logs.get("grad_norm")
        finite = math.isfinite(loss)
        point = {
            "step": state.global_step,
            "loss": _short(loss),
            "learning_rate": _short(logs["learning_rate"]),
            "grad_norm": _short(norm),
            "tokens": self.history.tokens,
            "seconds": round(self.history.training_seconds, 3),
        }
        if values := self.history.value_losses:
            point["value_loss"] = _short(math.fsum(values) / len(values))
            self.history.value_losses = []
        self.history.train.append(point)
        log_train(self.log, point)
        self.progress.step(state.global_step, loss)
        if not finite:
            self.history.diverged_at = state.global_step
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock anew; note when the checkpoint was written, and how long it took."""
        self.saved, self._saved_at = True, time.perf_counter()
        self._took = self._saved_at - self._since  # the clock stood still
        self._since = self._saved_at

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, the memory watch and the progress bar."""
        self._stop_clock()
        self.trainer.pause_memory_watch()
        self.progress.stop()

    def _agree(self, step: int, last: bool) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether to leave; in all processes alike."""
        due = distributed.first() and self._checkpoint_due(step, last)  # by one clock
        dues, askings = distributed.total([due, interrupts.requested() is not None])
        if askings:
            interrupts.request("another of its processes was asked to leave")
        return dues > 0, askings > 0

    def _score(self, step: int, reached: list[float]) -> None:
        assert self.score is not None
        self._stop_clock()
        begin = time.perf_counter()
        self.trainer.pause_memory_watch()
        # The last update may have lost the weights, which the next loss will tell.
        metrics = {k: v if math.isfinite(v) else None for k, v in self.score().items()}
        self.trainer.start_memory_watch()
        self._since = time.perf_counter()
        self.history.scoring_seconds += self._since - begin
        point: dict[str, Any] = {
            "step": step,
            "tokens": self.history.tokens,
            "seconds": self.history.training_seconds,
            "metrics": metrics,
        }
        if reached:
            point["learned"] = max(reached)
        self.history.scores.append(point)
        log_scores(self.log, point)
        self.progress.note(", ".join(f"{k} {v:.3f}" for k, v in metrics.items() if v is not None))

    def _checkpoint_due(self, step: int, last: bool) -> bool:
        """By steps, by minutes, and after the last step of a run long enough for one before."""
        every, minutes = self.settings["checkpoint_every"], self.settings["checkpoint_minutes"]
        if every and step % every == 0:
            return True
        pause = max(60 * minutes, RARE * self._took)
        if minutes and time.perf_counter() - self._saved_at >= pause:
            return True
        return last and self.saved

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.history.training_seconds += now - self._since
        self._since = now


def _short(value: float | None) -> float | None:
    """Seven digits, all that fp32 has; None where the value is not finite."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def log_train(log: Log, point: Mapping[str, Any]) -> None:
    """A point of the training curve for the tracker; what is not finite is left out."""
    names = {
        "loss": "train/loss",
        "value_loss": "train/value_loss",
        "learning_rate": "train/lr",
        "grad_norm": "train/grad_norm",
    }
    values = {name: point[key] for key, name in names.items() if point.get(key) is not None}
    log(point["step"], values | {"train/tokens": point["tokens"]})


def log_scores(log: Log, point: Mapping[str, Any]) -> None:
    """A point of the scores along the run, for the tracker; what is not finite is left out."""
    found = {f"score/{k}": value for k, value in point["metrics"].items() if value is not None}
    log(point["step"], found)


def replay(log: Log, history: History) -> None:
    """Tell the tracker all that a checkpoint has seen, so that its last run stands alone."""
    for point in sorted(history.scores + history.train, key=lambda point: point["step"]):
        (log_scores if "metrics" in point else log_train)(log, point)
