"""What several devices gain: a step of the recurrent net, and an epoch, on one device and on as many as there are.

    python -m benchmarks.devices [--devices N] [--only TEXT] [--json]

On a CPU a device is a core. A batch is split as `fit(mesh=…)` splits it; contestants take turns in one process.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import rnn as rnn_works
from benchmarks.timing import OURS, interleaved
from jaxnets import rnn
from jaxnets.check._progress import progress
from jaxnets.train import _mesh
from jaxnets.train._steps import runner, start

SIZES = tuple(size for size in rnn_works.SIZES if size[1] >= 32)  # of batches that are worth splitting
EPOCH = (60_000, 50, 28, 28, 128)  # examples, batch, T, D, H: rows of MNIST, by their shapes


def steps(T: int, B: int, D: int, H: int, mesh: jax.sharding.Mesh) -> dict[Any, Callable[[], Any]]:
    """Loss and gradient, last step scored: on one device, and on the mesh."""
    work = rnn_works.at(T, B, D, H, every=False)
    params, (x, (y,)) = work.params, work.data
    losses = {name: loss for (name, framework), loss in work.losses.items() if framework in (OURS, "jax")}

    data, order = {"x": x, "y": y}, _mesh.placed(_mesh.shares(np.arange(B, dtype=np.int32)[None], mesh), mesh)

    def spread(loss, params, data, order, _):
        mine = jnp.concatenate(order, -1)[0]
        return _mesh.value_and_grad(loss, params, {name: a[mine] for name, a in data.items()}, order.rest.size, mesh)

    found = {}
    for name, loss in losses.items():
        found[name, 1] = _ready(jax.value_and_grad(loss), params, x, y)
        on_all = _mesh.on_all(partial(spread, loss), mesh, False)
        found[name, mesh.size] = _ready(on_all, *_mesh.replicated((params, data), mesh), order, 1)
    return found


def epochs(mesh: jax.sharding.Mesh) -> dict[Any, Callable[[], Any]]:
    """A sixth of an epoch of training, with Adam, as `fit` runs it."""
    N, B, T, D, H = EPOCH
    given = {"x": np.zeros((N, T, D), np.float32), "y": np.zeros(N, np.int32)}
    given["x"][:] = np.random.default_rng(0).random((T, D), np.float32)
    adam = optax.adam(1e-3)
    picked = np.random.default_rng(0).permutation(N)[: N // 6].reshape(-1, B).astype(np.int32)
    found = {}
    for name, loss in {OURS: rnn.loss, "x U in the loop": partial(rnn_works.plain, hoisted=False)}.items():
        for where in (None, mesh):
            net = rnn.init(jax.random.key(0), D, H, rnn_works.CLASSES)
            run, state = runner(loss, adam, {}, mesh=where), _mesh.replicated(start(net, adam, 0), where)
            there = _mesh.replicated(given, where)
            order = jnp.asarray(picked) if where is None else _mesh.placed(_mesh.shares(picked, where), where)
            found[name, 1 if where is None else mesh.size] = _Epoch(run, state, there, order, len(picked))
    return found


class _Epoch:
    """Its state is written over by each run."""

    def __init__(self, run: Any, state: Any, data: Any, order: Any, steps: int) -> None:
        self.run, self.state, self.data, self.order, self.steps = run, state, data, order, steps

    def __call__(self) -> None:
        self.state, losses = self.run(self.state, self.data, self.order, self.steps)
        jax.block_until_ready(losses)


def _ready(program: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    compiled = jax.jit(program).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def measured(title: str, contestants: dict[Any, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Medians, and ratios by rounds: of the best plain form on one device, and of ours there, over ours on all."""
    for run in contestants.values():
        run()
    times = dict(zip(contestants, interleaved(list(contestants.values()), 7, seconds).T, strict=True))
    many = max(n for _, n in times)

    def over_ours(who: Any) -> float:
        return float(np.median(times[who] / times[OURS, many]))

    def best(n: int) -> float:
        return min(over_ours(who) for who in times if who[0] != OURS and who[1] == n)

    return {
        "what": title,
        "devices": many,
        "rounds": len(times[OURS, 1]),
        "median_ms": {f"{name}, {n}": float(np.median(t)) * 1e3 for (name, n), t in times.items()},
        "of jax.grad on one": best(1),
        "of ours on one": over_ours((OURS, 1)),
        "of jax.grad on as many": best(many),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, default=os.cpu_count(), metavar="N", help="of a CPU: one a core")
    parser.add_argument("--only", default="", metavar="TEXT", help="works whose name has this text in it")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    if mesh.size < 2:
        parser.error("there must be two devices or more")
    works = {f"step {','.join(map(str, size))}": partial(steps, *size, mesh) for size in SIZES}
    works["epoch, rows of MNIST"] = partial(epochs, mesh)
    if not options.json:
        print(f"JAX {jax.__version__}, {mesh.size} × {jax.devices()[0].device_kind}; time over ours on all {mesh.size}")
        print(f"{'':<24}{'ours ms':>9}{'ours, 1':>9}{'jax.grad, 1':>13}{f'jax.grad, {mesh.size}':>13}{'rounds':>8}")
    for title, make in progress([item for item in works.items() if options.only in item[0]], "devices"):
        row = measured(title, make(), 4.0)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
        print(
            f"{title:<24}{row['median_ms'][f'{OURS}, {mesh.size}']:>9.1f}{row['of ours on one']:>9.2f}"
            f"{row['of jax.grad on one']:>13.2f}{row['of jax.grad on as many']:>13.2f}{row['rounds']:>8}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
