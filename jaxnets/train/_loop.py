"""The loop around the steps: epochs, who watches, what decides, where it stops."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxnets.train import _processes
from jaxnets.train._checks import refuse_bad_data
from jaxnets.train._keys import Keys
from jaxnets.train._plan import Piece, Plan
from jaxnets.train._run import Fitted, Run
from jaxnets.train._validation import Judge


class Progress(NamedTuple):
    """What `watch` is told whenever Python is visited."""

    epoch: int  # 1 …
    epochs: int
    step: int  # steps done
    steps: int  # of an epoch
    loss: float  # the mean of the steps just done
    entry: dict[str, float] | None  # of the history, where an epoch has just ended
    history: list[dict[str, float]]  # entries of the epochs that are done


Watch = Callable[[Progress], Any]


@dataclass(frozen=True)
class Loop:
    """All that a run needs to go on from where it stands."""

    loss: Callable[..., Any]
    given: Any  # the parameters that the caller gave
    keys: Keys
    buckets: list[dict[str, Any]]
    epochs: int
    plan: Plan
    advance: Callable[..., Any]
    run: Run
    judge: Judge
    watch: Watch | None
    mesh: Mesh | None

    def go(self) -> Fitted:
        """To the last epoch, or until it shall stop."""
        run = self.run
        with run.begun():
            while run.epoch < self.epochs and not run.has_stalled(self.judge.patience) and not self._stops_in_epoch():
                pass
        return run.fitted()

    def _stops_in_epoch(self) -> bool:
        """Go through an epoch; whether who watches has had enough, in its course or at its end."""
        run, begun, losses = self.run, time.perf_counter(), np.zeros(0)
        pieces = self.plan.pieces(self.buckets, _processes.of_this_process(run.state.key), run.epoch, run.done)
        piece = next(pieces, None)
        while piece is not None:
            run.state, new = self.advance(run.state, piece.data, piece.order, len(piece.picked))
            after = next(pieces, None)  # is made ready while the device computes
            losses = self._taken(piece, new)
            if after is not None and self._ends_here(losses):
                return True
            piece = after
        entry = {"loss": run.mean_loss, "seconds": time.perf_counter() - begun}
        run.check_params()
        self.judge.score(run, entry)
        if _processes.several(self.mesh):
            _processes.check_same(run.state.params, f"epoch {run.epoch + 1}")
        return self._ends_here(losses, entry)

    def _taken(self, piece: Piece, new: Any) -> np.ndarray:
        """The losses of a piece's steps, counted; one that is not finite ends the run."""
        losses = np.asarray(new, np.float64)[: len(piece.picked)]
        for i in np.flatnonzero(~np.isfinite(losses))[:1]:
            number = next(i for i, bucket in enumerate(self.buckets) if bucket is piece.bucket)
            name = "data" if len(self.buckets) == 1 else f"data[{number}]"
            refuse_bad_data(name, self.loss, self.given, piece.bucket, piece.picked[i], self.keys)
            self.run.diverged(f"the loss of step {self.run.step + int(i) + 1} is {losses[i]}")
        self.run.took(losses)
        return losses

    def _ends_here(self, losses: np.ndarray, entry: dict[str, float] | None = None) -> bool:
        """Keep what is due, tell who watches; whether the run shall end."""
        run = self.run

        def keep_and_tell() -> bool:
            run.save_if_due() if entry is None else run.close_epoch(entry)
            epoch, mean = run.epoch + (entry is None), float(losses.mean())
            report = Progress(epoch, self.epochs, run.step, self.plan.steps, mean, entry, run.history)
            return self.watch is not None and bool(self.watch(report))

        stop = _processes.together(self.mesh, keep_and_tell)
        if stop and entry is None:
            _processes.together(self.mesh, run.save)
        return stop
