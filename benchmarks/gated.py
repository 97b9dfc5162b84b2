"""The gated net against its plain expression. Operations: those of the cheaper of its two forms."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import OURS, Work
from jaxnets import gated, heads

SIZES = ((16384, 512, 64, 64), (8192, 1024, 256, 256), (4096, 256, 128, 128), (512, 64, 256, 256))


def works(quick: bool) -> Iterator[Work]:
    for size in SIZES[2:3] if quick else SIZES:
        yield at(*size)


def at(B: int, c: int, a: int, b: int) -> Work:
    params = gated.init(jax.random.key(0), x=a, eta=b, hidden=c)
    x, eta = jax.random.normal(jax.random.key(1), (B, a)), jax.random.normal(jax.random.key(2), (B, b))
    y = (jnp.arange(B) % 2).astype(jnp.float32)
    losses = {
        (OURS, OURS): gated.loss,
        ("plain", "jax"): plain,
        ("plain, einsum", "jax"): by_einsum,
        ("jax.checkpoint of it", "checkpoint"): jax.checkpoint(plain),
    }
    operations = 2.0 * min(2 * B * a * b + 3 * a * b * c, 2 * B * c * (a + b))
    what = "folded" if gated._folds(B, a, b, c) else "in full"
    return Work(
        "gated", f"{B},{c},{a},{b}", what, operations, losses, params, (x, (eta, y)),
        others=partial(torch_steps, params, x, eta, y),
    )  # fmt: skip


def plain(p: Any, x: jax.Array, eta: jax.Array, y: jax.Array) -> jax.Array:
    return heads.reference_loss(((x @ p.W) * (eta @ p.U)) @ p.v + x @ p.r + p.c, y)


def by_einsum(p: Any, x: jax.Array, eta: jax.Array, y: jax.Array) -> jax.Array:
    return heads.reference_loss(jnp.einsum("na,ac,nb,bc,c->n", x, p.W, eta, p.U, p.v) + x @ p.r + p.c, y)


def torch_steps(params: gated.Params, x: jax.Array, eta: jax.Array, y: jax.Array) -> dict[str, Any]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from benchmarks.torch_peer import step, tensor

    W, U, v, r, c = weights = [tensor(p).requires_grad_() for p in params]

    def loss(x, eta, y):
        z = ((x @ W) * (eta @ U)) @ v + x @ r + c
        return torch.nn.functional.binary_cross_entropy_with_logits(z, y)

    return {"plain expression": step(loss, weights, (x, eta, y))}
