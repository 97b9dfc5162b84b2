"""The recurrent net against what people write without a rule.

Operations of a step: h W, x U and their three or two products backward (x has no gradient); the head is small change.
"""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.timing import OURS, Work
from jaxnets import heads, rnn
from jaxnets._arrays import on_cpu
from jaxnets._chunks import near_divisor

CLASSES = 10
SIZES = (
    (784, 128, 1, 128),
    (784, 32, 1, 128),
    (4096, 16, 32, 128),
    (256, 64, 128, 256),
    (28, 128, 28, 128),
    (100, 64, 256, 1024),
    (128, 32, 128, 512),
    (200, 1, 8, 16),
)
QUICK = ((784, 32, 1, 128), (28, 128, 28, 128))


def works(quick: bool) -> Iterator[Work]:
    for size in QUICK if quick else SIZES:
        for every in (False,) if quick else (False, True):
            yield at(*size, every)


def at(T: int, B: int, D: int, H: int, every: bool) -> Work:
    params = rnn.init(jax.random.key(0), D, H, CLASSES)
    x = jax.random.normal(jax.random.key(1), (B, T, D))
    y = jax.random.randint(jax.random.key(2), (B, T) if every else (B,), 0, CLASSES)
    losses = {
        (OURS, OURS): rnn.loss,
        ("x U in the loop", "jax"): partial(plain, hoisted=False),
        ("x U before the loop", "jax"): partial(plain, hoisted=True),
        ("jax.checkpoint of the step", "checkpoint"): partial(plain, hoisted=False, remat=True),
        ("jax.checkpoint of √T steps", "checkpoint"): by_stretches,
    }
    if not on_cpu():  # on a CPU it gains nothing
        losses["x U before the loop, eight steps at a time", "jax"] = partial(plain, hoisted=True, unroll=8)
    if importlib.util.find_spec("flax"):
        losses["nnx.RNN", "flax"] = flax_loss(D, H)
    if importlib.util.find_spec("equinox"):
        losses["a scan of eqx.nn.Linear", "equinox"] = equinox_loss(D, H)
    operations = 2.0 * B * T * H * (3 * H + 2 * D + (3 * CLASSES if every else 0))
    what = "every step" if every else "last step"
    return Work(
        "rnn",
        f"{T},{B},{D},{H}",
        what,
        operations,
        losses,
        params,
        (x, (y,)),
        others=partial(torch_steps, params, x, y),
    )


def plain(p: Any, x: jax.Array, y: jax.Array, hoisted: bool, remat: bool = False, unroll: int = 1) -> jax.Array:
    """A plain scan; autodiff does the rest."""
    every = y.ndim == 2
    x_t: Any = jnp.swapaxes(x, 0, 1)
    x_t = x_t @ p.U + p.b if hoisted else x_t

    def step(h, x_t):
        h = jnp.tanh((x_t if hoisted else x_t @ p.U + p.b) + h @ p.W)
        return h, h if every else None

    h_0 = jnp.zeros((x.shape[0], p.W.shape[0]))
    h_T, h = lax.scan(jax.checkpoint(step) if remat else step, h_0, x_t, unroll=unroll)
    z = (jnp.swapaxes(h, 0, 1) if h is not None else h_T) @ p.V + p.c
    return heads.reference_loss(z, y)


def by_stretches(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """A scan of about √T stretches, each computed again as a whole: the counterpart of our own chunks."""
    T = x.shape[1]
    length = near_divisor(T, round(T**0.5))
    assert T % length == 0
    x_t = jnp.swapaxes(x, 0, 1).reshape(-1, length, x.shape[0], x.shape[2])

    def step(h, x_t):
        h = jnp.tanh(x_t @ p.U + p.b + h @ p.W)
        return h, h if y.ndim == 2 else None

    h_0 = jnp.zeros((x.shape[0], p.W.shape[0]))
    h_T, h = lax.scan(jax.checkpoint(lambda h, x: lax.scan(step, h, x)), h_0, x_t)
    z = (jnp.swapaxes(h.reshape(T, *h_T.shape), 0, 1) if y.ndim == 2 else h_T) @ p.V + p.c
    return heads.reference_loss(z, y)


def flax_loss(D: int, H: int) -> Any:
    from flax import nnx

    cell = nnx.SimpleCell(D, H, rngs=nnx.Rngs(0))
    structure, _, rest = nnx.split(nnx.RNN(cell, return_carry=True), nnx.Param, ...)

    def loss(p, x, y):
        cell = {"dense_h": {"kernel": p.W}, "dense_i": {"kernel": p.U, "bias": p.b}}
        net = nnx.merge(structure, nnx.State({"cell": jax.tree.map(nnx.Param, cell)}), rest)
        h_T, h = net(x, initial_carry=jnp.zeros((x.shape[0], H)))
        return heads.reference_loss((h if y.ndim == 2 else h_T) @ p.V + p.c, y)

    return loss


def equinox_loss(D: int, H: int) -> Any:
    import equinox as eqx

    key = jax.random.key(0)
    of_x, of_h = eqx.nn.Linear(D, H, key=key), eqx.nn.Linear(H, H, use_bias=False, key=key)

    def loss(p, x, y):
        i = eqx.tree_at(lambda m: (m.weight, m.bias), of_x, (p.U.T, p.b))
        r = eqx.tree_at(lambda m: m.weight, of_h, p.W.T)

        def states(x):
            def step(h, x_t):
                h = jnp.tanh(i(x_t) + r(h))
                return h, h if y.ndim == 2 else None

            h_T, h = lax.scan(step, jnp.zeros(H), x)
            return h if y.ndim == 2 else h_T

        return heads.reference_loss(jax.vmap(states)(x) @ p.V + p.c, y)

    return loss


def torch_steps(params: rnn.Params, x: jax.Array, y: jax.Array) -> dict[str, Any]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from benchmarks.torch_peer import put, step

    D, H = params.U.shape
    cell, head = torch.nn.RNN(D, H, batch_first=True), torch.nn.Linear(H, CLASSES)
    put(cell, weight_ih_l0=params.U.T, weight_hh_l0=params.W.T, bias_ih_l0=params.b, bias_hh_l0=jnp.zeros(H))
    put(head, weight=params.V.T, bias=params.c)

    def loss(x, y):
        h, h_T = cell(x)
        z = head(h) if y.ndim == 2 else head(h_T[0])
        return torch.nn.functional.cross_entropy(z.reshape(-1, CLASSES), y.reshape(-1))

    return {"nn.RNN": step(loss, (cell, head), (x, y))}
