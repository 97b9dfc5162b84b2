"""The loop around the steps: epochs, validation, early stopping, checkpoints."""

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnets._shapes import Call
from jaxnets.train import _processes
from jaxnets.train._examples import buckets_of, size
from jaxnets.train._mesh import is_mean, of_its_own_mesh
from jaxnets.train._plan import plan_of
from jaxnets.train._run import Fitted, Run
from jaxnets.train._scores import check_predict, scores
from jaxnets.train._steps import TrainState, goes_row_by_row, marks_of, program_of, runner, start


class Progress(NamedTuple):
    """What `watch` is told whenever Python is visited."""

    epoch: int  # 1 …
    epochs: int
    step: int  # steps done
    steps: int  # of an epoch
    loss: float  # the mean of the steps just done
    entry: dict[str, float] | None  # of the history, where an epoch has just ended
    history: list[dict[str, float]]  # entries of the epochs that are done


@of_its_own_mesh
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
    also: Mapping[str, Any] | None = None,
    predict: Callable[..., jax.Array] | None = None,
    monitor: str = "loss",
    patience: int | None = None,
    rows: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    watch: Callable[[Progress], Any] | None = None,
    at_once: int | None = None,
    budget: int = 2**30,
    mesh: Mesh | None = None,
) -> Fitted:
    """Train: minibatches in an order drawn anew each epoch, the steps of an epoch in one jitted loop.

    Args:
      loss: `loss(params, …)`, a number; any loss of this package, or your own. One that takes a `key` (for dropout)
        gets another one each step.
      params: not changed; a run has its own copy.
      data: the loss's other arguments, as a tuple in their order or a dict of their names; examples along the first
        axis. A list of these is a list of buckets, each with shapes of its own (sentences of about one length, say),
        which take turns. What is left when an epoch is cut into batches sits it out, another part each time.
      optimizer: of optax, if it asks for no more than gradients, parameters and the loss; schedules, clipping and
        weight decay are its affair.
      validation: data as above, scored after each epoch (`scores`, with `predict` for accuracy).
      also: further data that are scored then, by name, without a say in anything: `{"training": …}`.
      monitor: which score of the validation set decides: `"loss"`, the less the better, or `"accuracy"` or `"auc"`,
        the more.
      patience: stop after so many epochs without a better one.
      rows: `{"E": "x"}` says that a batch reads only the rows of the table `params.E` that its `x` names. Only rows
        that get gradient are then updated, and their moments in the optimizer: a step does not walk over the table.
        Momentum and Adam's moments of the other rows rest meanwhile, and weight decay passes them by; SGD, with
        clipping by the global norm or without, does the same as without.
      out: a folder for checkpoints, one an epoch and one a minute; if there is one of this run, it goes on from there,
        and ends with the same bits as if it had never stopped. One of a run with another loss, optimizer, seed, batch,
        monitor or other data is refused.
      watch: called with a `Progress` when steps are done; if it returns True, the run is saved and stops.
      at_once: how many steps at most between two visits of Python; an epoch, or a bucket's turn, if None.
      budget: bytes of data that are put on the device as a whole (on each device of a mesh); what is larger goes there
        by blocks of half as much.
      mesh: `jax.make_mesh((N,), ("batch",))`, or any of one axis: each of its devices takes its share of every batch,
        and the outcome is that of one device, to the rounding of sums in another order. What the batch has beyond
        equal shares is computed by all, so that a batch that N divides is the fastest. The loss must be a mean over
        examples, over valid steps, or by `weights`, as ours are; a loss with a `key` draws for each share by itself.
        Of several processes (`jax.distributed.initialize`) each calls `fit` with the same arguments and a mesh of all
        devices. A process then puts on its devices no more of the data than their shares of the steps at hand (of a
        `np.memmap` it reads no more); process 0 alone reads and writes checkpoints; `watch` is called in each, and the
        run stops where one of them says so. Parameters are at first those of process 0, and come out on each.

    Raises:
      Diverged: the loss became NaN or infinite; names the step and the last good checkpoint.
      Lost: another process has stopped or cannot be reached.

    >>> import jax, numpy as np, optax
    >>> from jaxnets import dense
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> net = dense.init(jax.random.key(0), sizes=(1, 8, 1))
    >>> fitted = fit(dense.loss, net, (x, x[:, 0] > 0), optax.adam(0.05), epochs=20, batch=16)
    >>> bool(fitted.history[-1]["loss"] < 0.1 * fitted.history[0]["loss"])
    True
    """
    call = Call("fit")
    epochs, batch, seed = call.size("epochs", epochs), call.size("batch", batch), call.size("seed", seed, least=0)
    if not isinstance(optimizer, optax.GradientTransformation):
        call.fail(TypeError, "optimizer", "one of optax, as optax.adam(1e-3) is", type(optimizer).__name__)
    buckets = buckets_of(call, "data", loss, data)
    held_out = None if validation is None else buckets_of(call, "validation", loss, validation)
    beside = {name: buckets_of(call, f"also[{name!r}]", loss, given) for name, given in (also or {}).items()}
    key = inspect.signature(loss).parameters.get("key")
    _check_watching(call, held_out, monitor, predict, patience, key)
    if "validation" in beside:
        call.fail(ValueError, "also", "names other than that of the validation set", "'validation'")
    for name, given in {"validation": held_out or [], **{f"also[{n!r}]": b for n, b in beside.items()}}.items():
        if predict is not None:
            check_predict(call, name, predict, given)
    mesh = _checked_mesh(call, mesh)
    state, rows = start(params, optimizer, seed), dict(rows or {})
    _check_optimizer(call, optimizer, state)
    _check_rows(call, rows, state, optimizer, buckets)
    if mesh is not None and (key is None or key.default is not key.empty) and not is_mean(loss, params, buckets[0]):
        expected = "a mean over examples, over valid steps, or by weights, where there is a mesh"
        call.fail(ValueError, "loss", expected, "one whose halves of a batch do not make the whole")
    plan = plan_of(call, buckets, batch, at_once, budget, mesh)
    settings = {"seed": seed, "batch": batch, "examples": plan.sizes, "validation": bool(held_out), "rows": rows}
    if out is not None:  # what must be the same where it goes on
        settings |= {"monitor": monitor, "the data": _digest({"data": buckets})}
        settings |= {"the validation set": _digest({"validation": held_out or []})}
        settings |= program_of(loss, optimizer, state, buckets[0], batch, key is not None)
    run = Run(plan.steps, state, held_out is not None, out, settings, mesh)
    advance = runner(loss, optimizer, rows, key is not None, mesh, plan.deals)

    several = _processes.several(mesh)

    def visited(losses: np.ndarray, entry: dict[str, float] | None = None) -> bool:
        """Keep what is due, tell who watches; whether it shall end."""

        def keep_and_tell() -> bool:
            run.save_if_due() if entry is None else run.close_epoch(entry)
            epoch, mean = run.epoch + (entry is None), float(losses.mean())
            report = Progress(epoch, epochs, run.step, plan.steps, mean, entry, run.history)
            return watch is not None and bool(watch(report))

        stop = _processes.together(mesh, keep_and_tell)
        if stop and entry is None:
            _processes.together(mesh, run.save)
        return stop

    with _processes.watched(several, run.kept):
        if several:
            options = {"epochs": epochs, "monitor": monitor, "patience": patience, "at_once": at_once, "budget": budget}
            options |= {"predict": predict is not None, "devices": [d.id for d in mesh.devices.flat] if mesh else []}
            scored = {"validation": held_out or [], **beside}
            _processes.check_alike(_facts(settings | options, state, {"data": buckets, **scored}))
        run.begin()
        while run.epoch < epochs and not run.has_stalled(patience):
            begun = time.perf_counter()
            pieces = plan.pieces(buckets, _processes.of_this_process(run.state.key), run.epoch, run.done)
            piece, losses = next(pieces), np.zeros(0)
            while piece is not None:
                this, (run.state, new) = piece, advance(run.state, piece.data, piece.order, len(piece.picked))
                piece = next(pieces, None)  # is made ready while the device computes
                losses = np.asarray(new, np.float64)[: len(this.picked)]
                for i in np.flatnonzero(~np.isfinite(losses))[:1]:
                    batch_i = {name: np.asarray(a)[this.picked[i]] for name, a in this.bucket.items()}
                    _refuse_bad_data(loss, params, batch_i, key is not None)
                    run.diverged(f"the loss of step {run.step + int(i) + 1} is {losses[i]}")
                run.took(losses)
                if piece is not None and visited(losses):
                    return run.fitted()
            entry = {"loss": run.mean_loss, "seconds": time.perf_counter() - begun}
            run.check_params()
            for name, given in beside.items():
                found = scores(loss, predict, run.state.params, given)
                entry |= {f"{name}_{score}": value for score, value in found.items()}
            if held_out is not None:
                found = scores(loss, predict, run.state.params, held_out)
                if not math.isfinite(found["loss"]):
                    for bucket in held_out:
                        _refuse_bad_data(loss, params, bucket, False)
                    run.diverged(f"the validation loss after step {run.step} is {found['loss']}")
                if monitor not in found:
                    call.fail(ValueError, "monitor", f"one of the scores ({', '.join(found)})", repr(monitor))
                entry |= {f"validation_{name}": value for name, value in found.items()}
                run.judge(found[monitor] if monitor == "loss" else -found[monitor])
            if several:
                _processes.check_same(run.state.params, f"epoch {run.epoch + 1}")
            if visited(losses, entry):
                break
        return run.fitted()


def _facts(settings: dict[str, Any], state: TrainState, data: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What processes of one run have alike."""
    of_state = [f"{a.dtype}{a.shape}" for a in jax.tree.leaves(state)]
    facts = {"the data": _digest(data), "the shapes of parameters or of the optimizer's state": str(of_state)}
    return facts | {"the options": json.dumps(settings)}


def _digest(data: dict[str, list[dict[str, Any]]]) -> str:
    """Of large data some examples are looked at."""
    digest = hashlib.blake2b(digest_size=16)
    for part, buckets in data.items():
        for bucket in buckets:
            for name, a in bucket.items():
                some = np.ascontiguousarray(a[:: max(size(bucket) // 1000, 1)])
                digest.update(f"{part} {name} {a.dtype} {a.shape}".encode() + some.tobytes())
    return digest.hexdigest()


def _refuse_bad_data(loss: Callable[..., Any], params: Any, data: dict[str, Any], keyed: bool) -> None:
    """Under `jit` a bad label makes a loss NaN; outside, a loss of ours names it."""
    try:
        loss(params, **data, **({"key": jax.random.key(0)} if keyed else {}))
    except ValueError as error:
        error.add_note("(met by fit; places count within the batch)")
        raise


def _check_watching(call: Call, held_out: Any, monitor: str, predict: Any, patience: Any, key: Any) -> None:
    call.choice("monitor", monitor, "loss", "accuracy", "auc")
    if patience is not None:
        call.size("patience", patience)
    if held_out is None and (patience is not None or monitor != "loss"):
        call.fail(ValueError, "validation", "given where patience or monitor is", None)
    if held_out is not None and monitor != "loss" and predict is None:
        call.fail(ValueError, "predict", f"given where monitor is {monitor!r}", None)
    if held_out is not None and key is not None and key.default is key.empty:
        call.fail(TypeError, "loss", "one whose key has a default, for validation", "one that always needs a key")


def _checked_mesh(call: Call, mesh: Mesh | None) -> Mesh | None:
    """With axes of the automatic kind: parameters that come out are then arrays like others."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        expected = 'a mesh of devices, as jax.make_mesh((2,), ("batch",)) is'
        call.fail(TypeError, "mesh", expected, type(mesh).__name__)
    if len(mesh.axis_names) != 1:
        call.fail(ValueError, "mesh", "a mesh of one axis", f"axes {', '.join(map(str, mesh.axis_names))}")
    if mesh.is_multi_process and {d.process_index for d in mesh.devices.flat} != set(range(jax.process_count())):
        expected = "a mesh of devices of every process, or of this one alone"
        call.fail(ValueError, "mesh", expected, f"one of some of the {jax.process_count()} processes")
    return Mesh(mesh.devices, mesh.axis_names)


def _check_optimizer(call: Call, optimizer: optax.GradientTransformation, state: TrainState) -> None:
    update = optax.with_extra_args_support(optimizer).update
    with jax.numpy_dtype_promotion("standard"):
        try:
            jax.eval_shape(lambda p, kept: update(p, kept, p, value=jnp.zeros(())), state.params, state.optimizer)
        except TypeError as error:
            expected = "one that asks for no more than gradients, parameters and the loss"
            call.fail(TypeError, "optimizer", expected, f"one that asks otherwise ({error})", cause=error)


def _check_rows(
    call: Call, rows: dict[str, str], state: TrainState, optimizer: optax.GradientTransformation, buckets: list[Any]
) -> None:
    for table, name in rows.items():
        if table not in getattr(state.params, "_fields", ()) or getattr(state.params, table) is None:
            call.fail(ValueError, "rows", "a dict from arrays of params (a NamedTuple)", repr(table))
        if any(name not in b or b[name].dtype.kind not in "iu" for b in buckets):
            call.fail(ValueError, "rows", f"a dict to arguments of whole numbers ({', '.join(buckets[0])})", repr(name))
    if not rows:
        return
    try:
        marks_of(optimizer, state, set(rows))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"fit: rows: this optimizer does not keep what it keeps row by row ({error})") from error
    if any(map(_gathers, jax.tree.leaves(state.optimizer, is_leaf=_gathers))):
        raise ValueError("fit: rows: an optimizer that gathers gradients over steps needs the whole table")
    if not goes_row_by_row(optimizer, state.params, set(rows)):
        raise ValueError("fit: rows: what this optimizer does to a row depends on the others; it needs the whole table")


def _gathers(node: Any) -> bool:
    return isinstance(node, optax.MultiStepsState | optax.ApplyEvery)
