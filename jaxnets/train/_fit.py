"""The loop around the steps: epochs, validation, early stopping, checkpoints."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets._chunks import near_divisor
from jaxnets._shapes import Call
from jaxnets.train._checkpoint import load, save
from jaxnets.train._scores import scores
from jaxnets.train._steps import TrainState, runner, start

AT_ONCE = 16  # steps of one bucket before another has its turn
SAVE_EVERY = 60.0  # seconds, within an epoch


class Progress(NamedTuple):
    """What `watch` is told whenever Python is visited."""

    epoch: int  # 1 …
    epochs: int
    step: int  # steps done
    steps: int  # of an epoch
    loss: float  # the mean of the steps just done
    entry: dict[str, float] | None  # of the history, where an epoch has just ended


class Fitted(NamedTuple):
    """What comes of a run."""

    params: Any  # of the best epoch where a validation set was watched, else of the last step
    state: TrainState  # after the last step
    history: list[dict[str, float]]  # an entry an epoch


class Diverged(FloatingPointError):  # noqa: N818
    """The loss is not a number any more."""


def fit(
    loss: Callable[..., jax.Array],
    params: Any,
    data: Any,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    batch: int = 64,
    seed: int = 0,
    validation: Any = None,
    predict: Callable[..., jax.Array] | None = None,
    monitor: str = "loss",
    patience: int | None = None,
    rows: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    watch: Callable[[Progress], Any] | None = None,
    at_once: int | None = None,
    budget: int = 2**30,
) -> Fitted:
    """Train: minibatches in an order drawn anew each epoch, the steps of an epoch in one jitted `lax.scan`.

    Args:
      loss: `loss(params, …)`, a number; any loss of this package, or your own. One that takes a `key` (for dropout)
        gets another one each step.
      params: not changed; a run has its own copy.
      data: the loss's other arguments, as a tuple in their order or a dict of their names; examples along the first
        axis. A list of these is a list of buckets, each with shapes of its own (sentences of about one length, say),
        which take turns. What is left when an epoch is cut into batches sits it out, another part each time.
      optimizer: of optax; schedules, clipping and weight decay are its affair.
      validation: data as above, scored after each epoch (`scores`, with `predict` for accuracy).
      monitor: which of its scores decides: `"loss"`, the less the better, or `"accuracy"` or `"auc"`, the more.
      patience: stop after so many epochs without a better one.
      rows: `{"E": "x"}` says that a batch reads only the rows of the table `params.E` that its `x` names. Only rows
        that get gradient are then updated, and their moments in the optimizer: a step does not walk over the table.
        Adam's moments of the other rows rest meanwhile, and weight decay passes them by; plain SGD does the same as
        without.
      out: a folder for checkpoints, one an epoch and one a minute; if there is one of this run, it goes on from there,
        and ends with the same bits as if it had never stopped.
      watch: called with a `Progress` when steps are done; if it returns True, the run is saved and stops.
      at_once: how many steps between two visits of Python; an epoch if None (16 where there are buckets).
      budget: bytes of data that are put on the device as a whole; what is larger goes there block by block.

    Raises:
      Diverged: the loss became NaN or infinite; names the step and the last good checkpoint.

    >>> import jax, numpy as np, optax
    >>> from jaxnets import dense
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> net = dense.init(jax.random.key(0), sizes=(1, 8, 1))
    >>> fitted = fit(dense.loss, net, (x, x[:, 0] > 0), optax.adam(0.05), epochs=20, batch=16)
    >>> bool(fitted.history[-1]["loss"] < 0.1 * fitted.history[0]["loss"])
    True
    """
    call = Call("fit")
    epochs, batch = call.size("epochs", epochs), call.size("batch", batch)
    call.choice("monitor", monitor, "loss", "accuracy", "auc")
    if patience is not None:
        patience = call.size("patience", patience)
        if validation is None:
            call.fail(ValueError, "validation", "given where patience is", None)
    buckets = [_named(call, "data", loss, bucket) for bucket in (data if isinstance(data, list) else [data])]
    if not buckets:
        call.fail(ValueError, "data", "a list of at least one bucket", "an empty list")
    held_out = None if validation is None else _named(call, "validation", loss, validation)
    rows = _checked_rows(call, rows or {}, params, buckets)
    plan = _plan(call, buckets, batch, at_once, budget)
    settings = {"seed": seed, "batch": batch, "examples": [_size(b) for b in buckets], "validation": bool(held_out)}
    run = _Run(plan.steps, start(params, optimizer, seed), held_out is not None, out, settings)
    advance = runner(loss, optimizer, rows, "key" in inspect.signature(loss).parameters)

    def told(losses: np.ndarray, entry: dict[str, float] | None = None) -> bool:
        report = Progress(run.epoch + (entry is None), epochs, run.step, plan.steps, float(losses.mean()), entry)
        return watch is not None and watch(report) is True

    while run.epoch < epochs and not run.has_stalled(patience):
        begun, losses = time.perf_counter(), np.zeros(1)
        pieces = plan.pieces(buckets, run.state.key, run.epoch, run.done)
        piece = next(pieces)
        while piece is not None:
            this, (run.state, new) = piece, advance(run.state, *piece)
            piece = next(pieces, None)  # is made ready while the device computes
            losses = np.asarray(new, np.float64)
            for i in np.flatnonzero(~np.isfinite(losses))[:1]:
                loss(params, **{name: a[this[1][i]] for name, a in this[0].items()})  # refuses bad data by name
                run.diverged(run.step + int(i) + 1, float(losses[i]))
            run.took(losses)
            if piece is not None:
                run.save_if_due()
                if told(losses):
                    run.save()
                    return run.fitted()
        entry = {"loss": run.mean_loss, "seconds": time.perf_counter() - begun}
        if held_out is not None:
            found = scores(loss, predict, run.state.params, held_out)
            if monitor not in found:
                call.fail(ValueError, "monitor", f"one of the scores ({', '.join(found)})", repr(monitor))
            entry |= {f"validation_{name}": value for name, value in found.items()}
            run.judge(found[monitor] if monitor == "loss" else -found[monitor])
        run.close_epoch(entry)
        if told(losses, entry):
            break
    return run.fitted()


class _Run:
    """What changes in the course of a run, and its checkpoints."""

    def __init__(self, steps: int, state: TrainState, judged: bool, out: str | Path | None, settings: dict[str, Any]):
        self.steps, self.state, self.out, self.settings = steps, state, out, settings
        self.step, self.total = 0, 0.0  # steps done; the losses of this epoch, added up
        self.history: list[dict[str, float]] = []
        self.best = jax.tree.map(jnp.copy, state.params) if judged else None
        self.best_value, self.best_epoch = math.inf, 0
        self.saved_at, self.last_file = time.monotonic(), None
        if out is not None and (found := load(out, self._arrays())):
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

    def diverged(self, step: int, value: float) -> NoReturn:
        kept = f"The last good checkpoint is {self.last_file}. " if self.last_file else ""
        remedy = "A lower learning rate or optax.clip_by_global_norm may help."
        raise Diverged(f"fit: the loss of step {step} is {value}. {kept}{remedy}")

    def judge(self, value: float) -> None:
        """Keep the parameters of the epoch at hand, if they are the best so far."""
        if value < self.best_value:
            self.best_value, self.best_epoch = value, self.epoch + 1
            self.best = jax.tree.map(jnp.copy, self.state.params)

    def has_stalled(self, patience: int | None) -> bool:
        return patience is not None and self.epoch - self.best_epoch >= patience

    def close_epoch(self, entry: dict[str, float]) -> None:
        self.history.append({"epoch": self.epoch + 1, "step": self.step, **entry})
        self.total = 0.0
        self.save()

    def fitted(self) -> Fitted:
        return Fitted(self.state.params if self.best is None else self.best, self.state, self.history)

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self.out is not None:
            names = ("step", "total", "history", "best_value", "best_epoch", "settings")
            record = {name: getattr(self, name) for name in names}
            self.last_file = save(self.out, self.step, self._arrays(), record)
            self.saved_at = time.monotonic()

    def _arrays(self) -> dict[str, Any]:
        return {"state": self.state, "best": self.best}

    def _go_on_from(self, arrays: dict[str, Any], record: dict[str, Any], file: Path) -> None:
        if record["settings"] != self.settings:
            raise ValueError(f"fit: out holds another run ({file}: {record['settings']}; this one: {self.settings})")
        self.state, self.best, self.last_file = arrays["state"], arrays["best"], file
        for name, value in record.items():
            setattr(self, name, value)


class _Plan(NamedTuple):
    """How an epoch is cut: a bucket into steps, its steps into pieces that take turns with those of others."""

    sizes: list[int]  # examples of each bucket
    batches: list[int]  # of a step
    pieces_of: list[int]  # steps of a piece

    @property
    def steps(self) -> int:
        return sum(n // b for n, b in zip(self.sizes, self.batches, strict=True))

    def pieces(
        self, buckets: list[dict[str, Any]], key: jax.Array, epoch: int, done: int
    ) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
        """Data on the device, and which examples make which step; without the `done` first steps of the epoch."""
        key = jax.random.fold_in(key, epoch)
        orders, turns = [], []
        for i, (n, batch, length) in enumerate(zip(self.sizes, self.batches, self.pieces_of, strict=True)):
            order = jax.random.permutation(jax.random.fold_in(key, i), n)[: n // batch * batch].reshape(-1, batch)
            orders.append(order)
            turns += [(i, first, first + length) for first in range(0, len(order), length)]
        if len(buckets) > 1:  # of one, the examples are in random order already
            turns = [turns[int(i)] for i in jax.random.permutation(jax.random.fold_in(key, len(buckets)), len(turns))]
        for i, first, end in turns:
            order = orders[i][first:end]
            if done < len(order):
                yield _on_device(buckets[i], order[done:])
            done = max(done - len(order), 0)


def _plan(call: Call, buckets: list[dict[str, Any]], batch: int, at_once: int | None, budget: int) -> _Plan:
    """Puts data within the budget on the device; what is larger goes there by pieces of half the budget at most."""
    sizes = [_size(bucket) for bucket in buckets]
    batches = [min(batch, n) for n in sizes]
    at_once = call.size("at_once", at_once or (AT_ONCE if len(buckets) > 1 else sizes[0] // batches[0]))
    bytes_ = [sum(a.nbytes for a in bucket.values()) for bucket in buckets]
    fits = sum(bytes_) <= call.size("budget", budget)
    pieces = []
    for bucket, n, b, size in zip(buckets, sizes, batches, bytes_, strict=True):
        room = at_once if fits else max(min(at_once, budget // 2 * n // (b * size)), 1)
        pieces.append(near_divisor(n // b, min(room, n // b)))
        if fits:
            bucket.update({name: jnp.asarray(a) for name, a in bucket.items()})
    return _Plan(sizes, batches, pieces)


def _on_device(bucket: dict[str, Any], order: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    if all(isinstance(a, jax.Array) for a in bucket.values()):
        return bucket, order
    examples = np.asarray(order).reshape(-1)
    return {name: jnp.asarray(a[examples]) for name, a in bucket.items()}, jnp.arange(order.size).reshape(order.shape)


def _named(call: Call, name: str, loss: Callable[..., Any], data: Any) -> dict[str, Any]:
    """The loss's arguments by name, without those that are None; as many examples of each."""
    if not isinstance(data, Mapping):
        takes = [p.name for p in list(inspect.signature(loss).parameters.values())[1:] if p.kind in _POSITIONAL]
        if not isinstance(data, tuple) or len(data) > len(takes):
            expected = f"a tuple of at most {len(takes)} ({', '.join(takes)}), or a dict of the loss's arguments"
            call.fail(TypeError, name, expected, f"a {type(data).__name__}")
        data = dict(zip(takes, data, strict=False))
    found = {k: a if isinstance(a, jax.Array) else np.asarray(a) for k, a in data.items() if a is not None}
    sizes = {k: a.shape[0] if a.ndim else 0 for k, a in found.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        call.fail(ValueError, name, "arrays of one number of examples, at least one", sizes)
    return found


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _checked_rows(call: Call, rows: Mapping[str, str], params: Any, buckets: list[dict[str, Any]]) -> dict[str, str]:
    for table, name in rows.items():
        if getattr(params, table, None) is None:
            call.fail(ValueError, "rows", "a dict from tables of params", f"{table!r}, which params do not have")
        if any(name not in b or b[name].dtype.kind not in "iu" for b in buckets):
            call.fail(ValueError, "rows", f"a dict to arguments of whole numbers ({', '.join(buckets[0])})", repr(name))
    return dict(rows)


def _size(bucket: dict[str, Any]) -> int:
    return len(next(iter(bucket.values())))
