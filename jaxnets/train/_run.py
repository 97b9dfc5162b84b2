"""Where a run stands: what changes in its course, its checkpoints, and what comes of it."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnets.train import _processes
from jaxnets.train._checkpoint import as_in, claimed, newest, save
from jaxnets.train._mesh import replicated
from jaxnets.train._steps import TrainState, copied

SAVE_EVERY = 60.0  # seconds, within an epoch
_TOLD = ("seed", "batch", "examples", "validation", "rows", "monitor")  # settings that say something to a reader


class Fitted(NamedTuple):
    """What comes of a run."""

    params: Any  # of the best epoch where a validation set was watched, else, or before one was done, of the last step
    state: TrainState  # after the last step
    history: list[dict[str, float]]  # an entry an epoch


class Diverged(FloatingPointError):  # noqa: N818
    """The loss is not a number any more."""


class Run:
    """What changes in the course of a run, and its checkpoints."""

    def __init__(
        self,
        steps: int,
        state: TrainState,
        judged: bool,
        out: str | Path | None,
        settings: dict[str, Any],
        mesh: Mesh | None,
    ):
        self.steps, self.state, self.out, self.settings = steps, state, out, settings
        self.step, self.total = 0, 0.0  # steps done; the losses of this epoch, added up
        self.history: list[dict[str, float]] = []
        self.best = copied(state.params) if judged else None
        self.best_value, self.best_epoch = math.inf, 0
        self.saved_at, self.last_file = time.monotonic(), None
        self.mesh, self.writes = mesh, _processes.writes(mesh)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Go on from the folder's checkpoint, if there is one, and put all where the steps want it; within it the
        folder is this run's alone."""
        with contextlib.ExitStack() as until_the_end:
            _processes.together(self.mesh, lambda: self._find(until_the_end))
            self._place()
            yield

    def _place(self) -> None:
        if _processes.several(self.mesh):
            self._take_over(*_processes.as_first(self._arrays(), self._record()))
        if self.mesh is not None:
            self.state, self.best = replicated((self.state, self.best), self.mesh)

    def _find(self, until_the_end: contextlib.ExitStack) -> None:
        if self.out is not None and self.writes:
            Path(self.out).mkdir(parents=True, exist_ok=True)
            until_the_end.enter_context(claimed(Path(self.out)))
            if found := newest(self.out):
                self._go_on_from(*found)

    @property
    def epoch(self) -> int:
        """Epochs that are done with, their validation included."""
        return len(self.history)

    @property
    def done(self) -> int:
        """Steps of the epoch at hand."""
        return self.step - self.epoch * self.steps

    @property
    def mean_loss(self) -> float:
        return self.total / self.steps

    def took(self, losses: np.ndarray) -> None:
        """Count steps."""
        self.step, self.total = self.step + len(losses), self.total + float(losses.sum())

    def kept(self) -> str:
        """What is left of a run that failed."""
        if self.out is None or self.writes:
            return f"The last good checkpoint is {self.last_file}. " if self.last_file else ""
        return "The last good checkpoint is with process 0. "

    def diverged(self, what: str) -> NoReturn:
        raise Diverged(f"fit: {what}. {self.kept()}A lower learning rate or optax.clip_by_global_norm may help.")

    def check_params(self) -> None:
        """A step's loss is that of the parameters before it: what it left is seen here, before it is kept."""
        here = _processes.of_this_process(self.state.params)
        floats = [a for a in jax.tree.leaves(here) if jnp.issubdtype(a.dtype, jnp.inexact)]
        if not _all_finite(floats):
            self.diverged(f"the parameters after step {self.step} are not all finite")

    def judge(self, value: float) -> None:
        """Keep the parameters of the epoch at hand, if they are the best so far."""
        if value < self.best_value:
            self.best_value, self.best_epoch = value, self.epoch + 1
            self.best = copied(self.state.params)

    def has_stalled(self, patience: int | None) -> bool:
        return patience is not None and self.epoch - self.best_epoch >= patience

    def close_epoch(self, entry: dict[str, float]) -> None:
        self.history.append({"epoch": self.epoch + 1, "step": self.step, **entry})
        self.total = 0.0
        self.save()

    def fitted(self) -> Fitted:
        state, best = _processes.of_this_process((self.state, self.best))
        judged = best is not None and self.best_epoch  # before the first epoch is done there is no best one
        return Fitted(best if judged else state.params, state, self.history)

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self.out is not None and self.writes:
            self.check_params()
            if not Path(self.out).is_dir():
                raise FileNotFoundError(f"fit: the folder {self.out} was deleted during the run")
            self.last_file = save(self.out, self.step, self._arrays(), self._record())
            self.saved_at = time.monotonic()

    def _arrays(self) -> dict[str, Any]:
        return _processes.of_this_process({"state": self.state, "best": self.best})

    def _record(self) -> dict[str, Any]:
        names = ("step", "total", "history", "best_value", "best_epoch", "settings")
        return {name: getattr(self, name) for name in names}

    def _go_on_from(self, by_name: dict[str, np.ndarray], record: dict[str, Any], file: Path) -> None:
        came = record.get("settings")
        if not isinstance(came, dict):
            raise ValueError(f"fit: out holds no run of fit ({file}); give another folder")
        arrays = as_in(self._arrays(), by_name, file)
        # What a checkpoint does not tell, as one of another version of JAX does not, is not held against it.
        others = [name for name, mine in self.settings.items() if came.get(name, mine) != mine]
        if others:
            told = [f"{n}: {came[n]!r} there, {self.settings[n]!r} here" if n in _TOLD else n for n in others]
            remedy = "Give another folder, or take that one away to begin anew."
            raise ValueError(f"fit: out holds another run ({file}), which differs in {'; '.join(told)}. {remedy}")
        self._take_over(arrays, record | {"settings": self.settings})
        self.last_file = file

    def _take_over(self, arrays: dict[str, Any], record: dict[str, Any]) -> None:
        self.state, self.best = arrays["state"], arrays["best"]
        for name, value in record.items():
            setattr(self, name, value)


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(a).all() for a in arrays]).all()
