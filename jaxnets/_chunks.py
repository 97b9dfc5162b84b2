"""Time by the chunk: a loop over stretches of steps, and the stretches of an array."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def over_chunks(
    chunk: Callable[..., Any], carry: Any, T: int, length: int, kept: Any = (None, None), reverse: bool = False
) -> tuple[Any, tuple[Any, Any]]:
    """`carry, out = chunk(carry, start, steps, kept)` over T steps.

    Outputs, and `kept` likewise, come in pairs: those of the full chunks stacked, and that of a shorter one at the end;
    what is not there is None. A single chunk is an end alone, without a loop around it.
    """
    full, rest = divmod(T, length) if length < T else (0, T)

    def loop(carry):
        starts = length * jnp.arange(full, dtype=jnp.int32)
        return lax.scan(lambda c, s: chunk(c, s[0], length, s[1]), carry, (starts, kept[0]), reverse=reverse)

    def end(carry):
        return chunk(carry, full * length, rest, kept[1])

    outs = {loop: None, end: None}
    parts = ([loop] if full else []) + ([end] if not full or rest else [])
    for part in reversed(parts) if reverse else parts:
        carry, outs[part] = part(carry)
    return carry, (outs[loop], outs[end])


def scan(step: Callable[..., Any], carry: Any, xs: Any, **options: Any) -> tuple[Any, Any]:
    """`lax.scan`, which refuses to run over no steps where jit is off."""
    no_steps = jax.tree.leaves(xs)[0].shape[0] == 0
    with jax.disable_jit(False) if no_steps else nullcontext():
        return lax.scan(step, carry, xs, **options)


def chunk_of(x: jax.Array, start: Any, steps: int, valid: jax.Array | None) -> jax.Array:
    """Steps `start …` of batch-first `x`, time first (transposed while in cache), zero where not `valid [L, B]`."""
    x = jnp.swapaxes(lax.dynamic_slice_in_dim(x, start, steps, 1), 0, 1)
    if valid is None:
        return x
    return jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, jnp.zeros_like(x))


def put_chunk(x: jax.Array, chunk: jax.Array, start: Any) -> jax.Array:
    """Batch-first `x` with the time-first chunk `[L, B, …]` at steps `start …`; in place, in a loop that carries x."""
    return lax.dynamic_update_slice_in_dim(x, jnp.swapaxes(chunk, 0, 1), start, 1)


def near_divisor(T: int, ideal: int) -> int:
    """The divisor of T nearest to `ideal`, within a factor of two; if none, `ideal`, and the last chunk is shorter."""
    near = [d for d in range(ideal // 2 + 1, 2 * ideal) if T % d == 0]
    return min(near, key=lambda d: abs(d - ideal), default=ideal)
