"""Random programs before the checker: its verdict on their right gradients, and on the same with one equation altered.

    python -m benchmarks.random_programs [--programs N] [--seed N]

A program is a few steps on vectors, each a function of those before it, with loops and branches among them. Its right
gradient is autodiff's; the wrong one is the program of that gradient, in which the result of one equation is changed.
Every right one must be called right, every wrong one must not be. A program that fails is made smaller and printed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets import check
from jaxnets.check import _walk
from jaxnets.check._progress import progress

N = 4
INDEX = np.array([2, 0, 3, 2])


def _recurrence(c: Any, x: Any) -> tuple[Any, Any]:
    c = jnp.tanh(0.6 * c + x)
    return c, c


ONE: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "exp": lambda a: jnp.exp(jnp.sin(a)),
    "log1p": lambda a: jnp.log1p(a * a),
    "sqrt": lambda a: jnp.sqrt(1 + a * a),
    "rsqrt": lambda a: lax.rsqrt(0.5 + a * a),
    "logistic": lax.logistic,
    "erf": lax.erf,
    "atan": jnp.arctan,
    "cube": lambda a: jnp.tanh(a) ** 3,
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "clip": lambda a: jnp.clip(a, -0.9, 0.8),
    "softmax": jax.nn.softmax,
    "normalise": lambda a: (a - a.mean()) * lax.rsqrt(a.var() + 0.3),
    "cumsum": lambda a: jnp.cumsum(a) / N,
    "cumprod": lambda a: jnp.cumprod(jnp.cos(a)),
    "cumlogsumexp": lax.cumlogsumexp,
    "sort": jnp.sort,
    "max": lambda a: a + jnp.max(a),
    "reverse": lambda a: a[::-1],
    "roll": lambda a: jnp.roll(a, 1),
    "gather": lambda a: a[INDEX],
    "scatter": lambda a: jnp.zeros_like(a).at[INDEX].add(a),
    "pad": lambda a: jnp.concatenate([jnp.zeros_like(a[:1]), a[1:] * a[:-1]]),
    "convolve": lambda a: jnp.convolve(a, jnp.array([0.5, -0.3, 0.8], a.dtype), "same"),
    "outer": lambda a: (jnp.outer(a, a[::-1]) / N).sum(1),
    "slice": lambda a: jnp.concatenate([a[2:], jnp.sin(a[:2])]),
    "triangle": lambda a: jnp.tril(jnp.outer(a, jnp.cos(a))).sum(0),
    "stop": lambda a: a * lax.stop_gradient(jnp.ones_like(a) * 0.7),
    "remat": jax.checkpoint(lambda a: jnp.sin(a) * jnp.exp(-a * a)),
}
TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - 0.5 * b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b * b),
    "max": jnp.maximum,
    "select": lambda a, b: jnp.where(a > b + 0.1, jnp.sin(a), b * b),
    "hypot": lambda a, b: jnp.sqrt(0.1 + a * a + b * b),
    "atan2": lambda a, b: jnp.arctan2(a, 2 + b * b),
    "power": lambda a, b: (1.5 + jnp.sin(a)) ** jnp.tanh(b),
    "logaddexp": jnp.logaddexp,
    "dot": lambda a, b: a * jnp.dot(a, b) / N,
    "matrix": lambda a, b: jnp.outer(jnp.sin(a), b) @ a / N,
    "solve": lambda a, b: jnp.linalg.solve(3 * jnp.eye(N, dtype=a.dtype) + jnp.outer(jnp.tanh(a), jnp.tanh(b)), a),
    "cond": lambda a, b: lax.cond(a[0] > b[1], lambda a, b: jnp.sin(a) * b, lambda a, b: a + b * b, a, b),
    "switch": lambda a, b: lax.switch(
        (jnp.abs(a[0]) * 5).astype(int) % 3, [lambda a, b: a * b, lambda a, b: jnp.cos(b), lambda a, b: a - b], a, b
    ),
    "fori": lambda a, b: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c + b * (i + 1) / 3), a),
    "scan": lambda a, b: lax.scan(lambda c, x: (jnp.sin(c * x) + 0.2 * c, c.sum() * x), a, b)[1] / N,
    "recurrence": lambda a, b: lax.scan(_recurrence, a[0], b)[1],
    "nested": lambda a, b: lax.fori_loop(
        0, 2, lambda _, c: lax.fori_loop(0, 2, lambda _, d: jnp.sin(d) + 0.3 * b, c), a
    ),
    "map": lambda a, b: lax.map(lambda pair: jnp.cos(pair[0]) * pair[1], (a, b)),
    "vmap": lambda a, b: jax.vmap(lambda s: (jnp.tanh(s * b)).mean())(a),
}  # fmt: skip
CHANGES: dict[str, Callable[[Any], Any]] = {
    "half as much again": lambda a: 1.5 * a,
    "the sign": lambda a: -a,
    "all zero": lambda a: 0 * a,
    "0.3 added": lambda a: a + 0.3,
    "its first entry doubled": lambda a: a.ravel().at[0].multiply(2).reshape(a.shape),
    "reversed": lambda a: a[::-1] if a.ndim else 2 * a,
}


class Program(NamedTuple):
    """Steps `(name, i, j)`: of the values so far, counted from the last, those that a step takes."""

    steps: list[tuple[str, int, int]]
    seed: int
    which: float  # of the gradient's equations, from the first to the last
    change: str

    def __call__(self, x: Any, y: Any) -> Any:
        values = [x, y]
        for name, i, j in self.steps:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            values.append(ONE[name](a) if (name in ONE and i % 2 == 0) or name not in TWO else TWO[name](a, b))
        return jnp.sum(values[-1] * jnp.arange(1.0, N + 1)) + jnp.sum(jnp.sin(values[-2]))

    def args(self) -> tuple[Any, Any]:
        rng = np.random.default_rng(self.seed)
        return jnp.asarray(rng.normal(size=N)), jnp.asarray(rng.normal(size=N))


_steps = st.tuples(st.sampled_from([*ONE, *TWO]), st.integers(0, 5), st.integers(0, 5))
programs = st.builds(
    Program,
    st.lists(_steps, min_size=2, max_size=7),
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([*CHANGES]),
)


class _Altered:
    """A visitor that changes the first result of one equation."""

    def __init__(self, place: _walk.Place, change: Callable[[Any], Any]):
        self.place, self.change = place, change

    def __call__(self, place, eqn, operands, given):
        out = _walk.bind(eqn, operands)
        return ([self.change(out[0]).astype(out[0].dtype), *out[1:]] if place == self.place else out), None


def gradients(program: Program) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """The right gradient, and a wrong one; None where that equation makes none that differs by a thousandth."""
    right, args = jax.grad(program, (0, 1)), program.args()
    traced = _walk.trace(right, *args)
    places = [s.place for s in _walk.sites(traced) if not s.looped and _walk.is_float(s.eqn.outvars[0])]
    if not places:
        return right, None
    visit = _Altered(places[int(program.which * len(places))], CHANGES[program.change])

    def wrong(x, y):
        return tuple(_walk.run(traced, [x, y], visit)[0])

    off = 0.0
    for a, b in zip(jax.jit(right)(*args), jax.jit(wrong)(*args), strict=True):
        off = max(off, float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(a)), 1e-3)))
    return right, wrong if off > 1e-3 else None


def judge(program: Program) -> bool:
    """That the right gradient is called right and the wrong one is not; whether there was a wrong one."""
    right, wrong = gradients(program)
    report = check.gradient(program, right, program.args(), (0, 1))
    assert report.ok, f"an alarm\n{report}"
    if wrong is None:
        return False
    report = check.gradient(program, wrong, program.args(), (0, 1))
    assert report.wrong, f"a pass\n{report}"
    return True


def property_of(count: int, seed: int, judged: Callable[[bool], None] = lambda _: None) -> Callable[[], None]:
    """The test of that many programs."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    @hypothesis.given(programs)
    def test(program: Program) -> None:
        judged(judge(program))

    return test


def main() -> int:
    parser = argparse.ArgumentParser(description="Random programs before the checker.")
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"{options.programs} programs, seed {options.seed}", flush=True)
    begin, wrong = time.perf_counter(), []
    bar = iter(progress(range(options.programs), "programs"))

    def judged(had_wrong: bool) -> None:
        wrong.append(had_wrong)
        next(bar, None)
        if len(wrong) % 100 == 0:  # tens of thousands of programs are more than a process may map
            jax.clear_caches()

    property_of(options.programs, options.seed, judged)()
    print(
        f"{len(wrong)} right gradients called right, {sum(wrong)} wrong ones called wrong; JAX {jax.__version__}, ",
        end="",
    )
    print(f"{time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
