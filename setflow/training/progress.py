"""The progress of a training in steps: where it is, its losses, and the time that is left."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from setflow.progress import Lines, clock, json_line
from setflow.telling import is_told_as

__all__ = ["StepProgress"]

_DRAW_EVERY = 0.25  # seconds: to read a loss waits for the device


class StepProgress(ProgressBar):
    """Shows the step of a training, the loss, the best validation and the time that is left.

    In a terminal it is a line that changes, with a bar where the number of steps is known;
    elsewhere a line every minute and one at the end, in JSON where `setflow.telling.told_as` has
    asked for it.

    The loss is that of the last batch, by which the weights are trained; the best validation is the
    smallest `val_flow_loss`, by which the weights that are exported are chosen.

    Arguments:
        console: where to draw; None takes rich's default, standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._given, self._console = console, console  # ours is made late: models are copied
        self._enabled = True
        self._bar: Progress | None = None
        self._task: Any = None
        self._lines = Lines()
        self._start, self._first_step, self._drawn = 0.0, 0, -math.inf

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress from now on."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._first_step = time.monotonic(), trainer.global_step
        self._lines, self._console = Lines(), self._given or Console()
        if not self._enabled or not self._console.is_terminal or not is_told_as("auto"):
            return
        steps = self._steps(trainer)
        columns = (TextColumn("{task.description}"), *([] if steps is None else [BarColumn()]))
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("", total=steps)
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        if not self._enabled or self._console is None:
            return
        if self._bar is None:
            if trainer.global_step == self._first_step + 1 or self._lines.due():
                self._print(trainer)
        elif now - self._drawn >= _DRAW_EVERY:
            self._drawn = now
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._draw(trainer)
        elif self._enabled and self._console is not None:
            self._print(trainer)
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def text(self, trainer: Trainer) -> str:
        """Return where a training is, as one line."""
        steps = self._steps(trainer)
        loss, best, left = self._state(trainer, steps)
        of = "" if steps is None else f"/{steps}"
        parts = [f"step {trainer.global_step}{of}"]
        parts += [] if loss is None else [f"loss {loss:.4g}"]
        parts += [] if best is None else [f"best validation {best:.4g}"]
        parts += [] if left is None else [f"time left {clock(left)}"]
        return ", ".join(parts)

    def _state(
        self, trainer: Trainer, steps: int | None
    ) -> tuple[float | None, float | None, float | None]:
        """Return the loss, the best validation and the seconds that are left, None if unknown."""
        loss = trainer.callback_metrics.get("train_loss")
        best = getattr(trainer.checkpoint_callback, "best_model_score", None)
        return (
            None if loss is None else float(loss),
            None if best is None else float(best),
            self._left(trainer, steps),
        )

    def _print(self, trainer: Trainer) -> None:
        """Write a line."""
        assert self._console is not None
        if is_told_as("none"):
            return
        if not is_told_as("json"):
            self._console.print(self.text(trainer), highlight=False)
            return
        steps, seconds = self._steps(trainer), time.monotonic() - self._start
        loss, best, left = self._state(trainer, steps)
        rate = (trainer.global_step - self._first_step) / max(seconds, 1e-9)
        more = {
            "per_second": float(f"{rate:.4g}"),
            "left": None if left is None else round(left, 1),
            "loss": loss if loss is None or math.isfinite(loss) else None,
            "best_validation": best,
        }
        line = json_line("training", trainer.global_step, steps, seconds, **more)
        self._console.file.write(f"{line}\n")
        self._console.file.flush()

    def _draw(self, trainer: Trainer) -> None:
        assert self._bar is not None
        self._bar.update(self._task, description=self.text(trainer), completed=trainer.global_step)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _steps(trainer: Trainer) -> int | None:
        """Return the number of steps of the whole training, or None where nothing bounds it."""
        steps = trainer.estimated_stepping_batches
        return None if steps == math.inf else int(steps)

    def _left(self, trainer: Trainer, steps: int | None) -> float | None:
        """Return the seconds to the end, whether steps or the clock end the training."""
        bounds = []
        done = trainer.global_step - self._first_step
        if steps is not None and done > 0:
            bounds.append((time.monotonic() - self._start) / done * (steps - trainer.global_step))
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for timer in callbacks:
            remaining = timer.time_remaining() if isinstance(timer, Timer) else None
            if remaining is not None:
                bounds.append(remaining)
        return min(bounds, default=None)
