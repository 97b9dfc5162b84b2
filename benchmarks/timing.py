"""How a step is timed: contestants in one process, taking turns, and what a step costs in memory and in compiling.

A machine is shared and its clock drifts, so that a time alone means nothing: contestants run A B A B, and what is
reported is the median over rounds of the ratio within a round.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets._arrays import on_cpu

OURS = "ours"
STEPS = 4  # of a loop in one `lax.scan`
LEARNING_RATE = 1e-3


class Contestant(NamedTuple):
    """One way to compute a step; `run` returns when it is done."""

    name: str
    framework: str  # "ours", "jax", "flax", "equinox" or "torch"
    run: Callable[[], Any]
    bytes: int | None = None  # temporaries and output, by the compiler's count
    compiling: float | None = None  # seconds


class Work(NamedTuple):
    """One step of one net at one size, and everybody who does it."""

    net: str
    size: str
    what: str  # which loss, or whose gradient
    operations: float  # multiplications and additions of a step that does nothing twice
    losses: dict[
        tuple[str, str], Callable[..., Any]
    ]  # (name, framework) -> loss(params, data) for JAX to differentiate
    params: Any
    data: Any
    trains_data: bool = False  # x has a gradient too
    others: Callable[[], dict[str, Callable[[], Any]]] = dict  # name -> a step of PyTorch's, made when asked for
    in_loop: bool = False
    alone: frozenset[str] = frozenset()  # who sits out in a loop

    @property
    def title(self) -> str:
        return f"{self.net} {self.size} {self.what}" + (" in a scan" if self.in_loop else "")


def contestants(work: Work) -> Iterator[Contestant]:
    """Each compiled and run once; their losses must agree."""
    first: Any = None
    taking_part = {who: loss for who, loss in work.losses.items() if not (work.in_loop and who[0] in work.alone)}
    programs = [(_loop if work.in_loop else _step)(loss, work) for loss in taking_part.values()]
    for (name, framework), (_, args), (compiled, seconds) in zip(
        taking_part, programs, _compiled(programs), strict=True
    ):
        value = float(jnp.ravel(jax.tree.leaves(compiled(*args))[0])[-1])  # in a loop, of its last step
        first = value if first is None else first
        if not np.isclose(value, first, rtol=2e-3):
            raise RuntimeError(f"{work.title}: {name} computes the loss {value}, {OURS} {first}")
        memory: Any = compiled.memory_analysis()
        size = memory.temp_size_in_bytes + memory.output_size_in_bytes
        yield Contestant(name, framework, lambda c=compiled, a=args: jax.block_until_ready(c(*a)), size, seconds)
    for name, run in (work.others() if not work.in_loop else {}).items():
        value = run()
        if not np.isclose(value, first, rtol=2e-3):
            raise RuntimeError(f"{work.title}: {name} computes the loss {value}, {OURS} {first}")
        yield Contestant(name, "torch", run)


def _compiled(programs: Sequence[tuple[Callable[..., Any], Any]]) -> list[tuple[Any, float | None]]:
    """Each program, and how long it took to compile: on a CPU, where it is asked for; a compiler that tries its kernels
    on the device is slow, and its programs are compiled side by side and not timed."""
    if on_cpu():
        found: list[tuple[Any, float | None]] = []
        for program, args in programs:
            begin = time.perf_counter()
            compiled = jax.jit(program).lower(*args).compile()
            found.append((compiled, time.perf_counter() - begin))
        return found
    lowered = [jax.jit(program).lower(*args) for program, args in programs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [(compiled, None) for compiled in pool.map(lambda one: one.compile(), lowered)]


def _step(loss, work):
    argnums = (0, 1) if work.trains_data else 0
    x, rest = work.data
    return jax.value_and_grad(lambda p, x, rest: loss(p, x, *rest), argnums), (work.params, x, rest)


def _loop(loss, work):
    """Descent over a few batches in one `lax.scan`, as in a training loop; where x is trained it is one batch."""
    x, rest = work.data

    def down(a, g):
        return a - LEARNING_RATE * g

    def train_both(carry, _):
        value, grads = jax.value_and_grad(lambda p, x: loss(p, x, *rest), (0, 1))(*carry)
        return jax.tree.map(down, carry, grads), value

    def train(p, batch):
        value, grads = jax.value_and_grad(lambda p: loss(p, batch[0], *batch[1]))(p)
        return jax.tree.map(down, p, grads), value

    if work.trains_data:
        return lambda p, x: lax.scan(train_both, (p, x), length=STEPS)[::-1], (work.params, x)
    batches = jax.tree.map(lambda a: jnp.stack([jnp.roll(a, i, 0) for i in range(STEPS)]), (x, rest))
    return lambda p, batches: lax.scan(train, p, batches)[::-1], (work.params, batches)


def interleaved(runs: Sequence[Callable[[], Any]], least: int, seconds: float) -> np.ndarray:
    """Seconds, a row a round: at least so many rounds (2 where they last a minute), more while there is time, 50 at
    most.

    Whose turn it is runs once uncounted, after a pause: threads of another library may still spin for work, and the
    caches are full of another's arrays. A run of a second feels neither.
    """
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while True:
        row = []
        for turn, run in enumerate(runs):
            time.sleep(0.01)
            if rounds and rounds[-1][turn] < 1:
                run()
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        rounds.append(row)
        passed, count = time.perf_counter() - begin, len(rounds)
        if count >= (least if passed < 60 else min(least, 2)) and (passed >= seconds or count >= 50):
            return np.array(rounds)


def measured(work: Work, least: int, seconds: float) -> dict[str, Any]:
    """A row of results."""
    all_ = list(contestants(work))
    times = interleaved([c.run for c in all_], least, seconds)
    mine = times[:, 0]
    return {
        "net": work.net,
        "size": work.size,
        "what": work.what,
        "in_loop": work.in_loop,
        "dtype": "float32",
        "operations": work.operations * (STEPS if work.in_loop else 1),
        "rounds": len(times),
        "gradients_off_eps": None if work.in_loop else _eps_off(work, all_[0].run()[1]),
        "contestants": [
            {
                "name": c.name,
                "framework": c.framework,
                "median_ms": float(np.median(t)) * 1e3,
                "min_ms": float(np.min(t)) * 1e3,
                "ratio": float(np.median(t / mine)),  # its time over ours, by rounds
                "bytes": c.bytes,
                "compile_s": c.compiling,
            }
            for c, t in zip(all_, times.T, strict=True)
        ],
    }


def _eps_off(work: Work, grads: Any) -> float:
    """The gradient's largest error, in units of float32's rounding times the leaf's largest entry: against autodiff of
    a plain form in float64, at the same numbers."""
    plain = next(loss for (_, framework), loss in work.losses.items() if framework == "jax")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, (work.params, work.data))
        program, args = _step(plain, work._replace(params=wide[0], data=wide[1]))
        true = jax.jit(program)(*args)[1]
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(true), strict=True)
        off = [float(jnp.max(jnp.abs(g - t)) / jnp.max(jnp.abs(t))) for g, t in pairs]
    return max(off) / float(jnp.finfo(jnp.float32).eps)


def best(row: dict[str, Any], *frameworks: str) -> dict[str, Any] | None:
    """The fastest of these frameworks' contestants, by the ratio that is reported."""
    among = [c for c in row["contestants"] if c["framework"] in frameworks]
    return min(among, key=lambda c: c["ratio"], default=None)


def gemm_rate() -> float:
    """Operations a second of the largest product of matrices, the best of a few sizes."""
    rates = []
    for n in (512, 1024, 2048) if on_cpu() else (4096, 8192):
        a = jnp.ones((n, n), jnp.float32)
        product = jax.jit(lambda a: a @ a).lower(a).compile()
        times = interleaved([lambda f=product, a=a: jax.block_until_ready(f(a))], 5, 0.3)
        rates.append(2 * n**3 / times.min())
    return max(rates)
