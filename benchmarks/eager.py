"""Calls without `jit`, as in a notebook: the first of a size, and every later one.

python -m benchmarks.eager
"""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import dense, gated, rnn, textconv

CALLS = 50


def cases() -> dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]]:
    """For each net its module, what `predict` takes and what `loss` takes."""
    rng, key = np.random.default_rng(0), jax.random.key(0)

    def f(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    y, words = rng.integers(0, 2, 32), rng.integers(0, 1000, (32, 40))
    nets = {
        "recurrent": (rnn, (rnn.init(key, 28, 128, 10), f(32, 28, 28))),
        "text": (textconv, (textconv.init(key, 100, (3, 4, 5), 100, 2, vocab=1000), words)),
        "gated": (gated, (gated.init(key, 64, 64, 128), f(32, 64), f(32, 64))),
        "dense": (dense, (dense.init(key), f(32, 784))),
    }
    return {name: (module, args, (*args, y)) for name, (module, args) in nets.items()}


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of the first call, and the median of those after it."""
    each = []
    for _ in range(CALLS + 1):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        each.append(1e3 * (time.perf_counter() - begin))
    return each[0], statistics.median(each[1:])


def main() -> None:
    print(f"milliseconds a call, JAX {jax.__version__}, {platform.processor() or platform.machine()}, no jit")
    print(f"{'net':<10} {'call':<10} {'first':>7} {'later':>7} {'under jit':>10}")
    for name, (module, inputs, scored) in cases().items():
        for what, f, args in (
            ("predict", module.predict, inputs),
            ("loss", module.loss, scored),
            ("gradient", jax.grad(module.loss), scored),
        ):
            first, later = timed(partial(f, *args))
            _, jitted = timed(partial(jax.jit(f), *args))
            print(f"{name:<10} {what:<10} {first:>7.0f} {later:>7.2f} {jitted:>10.2f}")


if __name__ == "__main__":
    main()
