"""Training: what is asked for is checked, planned, and handed to the loop."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxnets._shapes import Call
from jaxnets.train import _processes
from jaxnets.train._checks import check_loss_on_mesh, check_optimizer, check_params, check_rows, checked_mesh, started
from jaxnets.train._examples import buckets_of, size
from jaxnets.train._keys import keys_of
from jaxnets.train._loop import Loop, Progress
from jaxnets.train._mesh import of_its_own_mesh
from jaxnets.train._plan import Pieces, plan_of
from jaxnets.train._run import Fitted, Run
from jaxnets.train._steps import TrainState, program_of, runner
from jaxnets.train._validation import Validation, judge_of


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
    validation: Validation | Any = None,
    rows: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    watch: Callable[[Progress], Any] | None = None,
    mesh: Mesh | None = None,
    pieces: Pieces | None = None,
) -> Fitted:
    """Train: minibatches in an order drawn anew each epoch, the steps of an epoch in one jitted loop.

    Args:
      loss: `loss(params, …)`, a number; any loss of this package, or your own. One that takes a `key` (for dropout)
        gets other ones each step: a key for each example, `[batch]`, where it takes such an array as
        `textconv.loss` does, so that what is drawn does not depend on where an example is computed; else one key.
      params: a pytree of floating arrays; it is copied, not changed.
      data: the loss's other arguments, as a tuple in their order or a dict of their names; examples along the first
        axis. A list of these is a list of buckets with different shapes (sentences of similar length, say); they are
        interleaved. The incomplete last batch of an epoch is dropped; which examples it holds changes each epoch.
      optimizer: any optax optimizer that needs no more than gradients, parameters and the loss. Schedules, clipping
        and weight decay belong to it.
      validation: data as above, scored after each epoch; the parameters of the epoch with the least loss are
        returned. `train.Validation(data, predict=…, monitor="accuracy", patience=5)` sets more.
      rows: `{"E": "x"}` says that a batch reads only those rows of the table `params.E` that its `x` names. Only rows
        with a gradient are then updated, with their optimizer moments, so a step does not touch the whole table.
        Moments of the other rows do not change meanwhile, and weight decay skips them. For SGD, with or without
        clipping by the global norm, the result is the same as without `rows`.
      out: a folder for checkpoints, saved once an epoch and once a minute. If it has one of this run, training resumes
        there and ends with the same bits as if it had never stopped. A checkpoint of another loss, optimizer, seed,
        batch, monitor or other data is refused.
      watch: called with a `Progress` after some steps; if it returns True, the run is saved and stops.
      mesh: `jax.make_mesh((N,), ("batch",))`, or any mesh of one axis. Each device computes its share of every batch;
        the result is that of one device, dropout included, up to the rounding of sums in another order. Examples beyond
        equal shares are computed by all devices, so a batch size that N divides is fastest. The loss must be a mean
        over examples, over valid steps, or by `weights`, as ours are; if it takes a `key`, then one for each example.
        With several processes (`jax.distributed.initialize`), each calls `fit` with the same arguments and a mesh of
        all devices. A process sends its devices only their shares of the next steps (and reads no more of an
        `np.memmap`). Process 0 alone reads and writes checkpoints; `watch` is called in each, and the run stops if any
        returns True. Training starts from the parameters of process 0; the result is returned in each.
      pieces: `train.Pieces(at_once=…, budget=…)`: how many steps run between two calls of `watch`, and how many bytes
        of data are kept on the device as a whole.

    Raises:
      Diverged: the loss became NaN or infinite; the message names the step and the last good checkpoint.
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
    judge = judge_of(call, loss, params, validation)
    mesh, keys = checked_mesh(call, mesh), keys_of(loss, params, buckets[0], min(batch, size(buckets[0])))
    check_params(call, params)
    state, rows = started(call, params, optimizer, seed), dict(rows or {})
    check_optimizer(call, optimizer, state)
    check_rows(call, rows, state, optimizer, buckets)
    if mesh is not None:
        check_loss_on_mesh(call, loss, params, buckets[0], keys)
    plan = plan_of(call, buckets, batch, pieces or Pieces(), mesh)
    settings = {"seed": seed, "batch": batch, "examples": plan.sizes, "validation": judge.judges, "rows": rows}
    if out is not None:  # what must be the same where it goes on
        settings |= {"monitor": judge.monitor, "the data": _digest({"data": buckets})}
        settings |= {"the validation set": _digest({"validation": judge.by_name.get("validation", [])})}
        settings |= program_of(loss, optimizer, state, buckets[0], batch, keys)
    run = Run(plan.steps, state, judge.judges, out, settings, mesh)
    advance = runner(loss, optimizer, rows, keys, mesh, plan.deals)
    several = _processes.several(mesh)
    with _processes.watched(several, run.kept):
        if several:
            options = {"epochs": epochs, "monitor": judge.monitor, "patience": judge.patience, "pieces": pieces}
            options |= {
                "predict": judge.predict is not None,
                "devices": [d.id for d in mesh.devices.flat] if mesh else [],
            }
            _processes.check_alike(_facts(settings | options, state, {"data": buckets, **judge.by_name}))
        return Loop(loss, params, keys, buckets, epochs, plan, advance, run, judge, watch, mesh).go()


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
