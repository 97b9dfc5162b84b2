"""The dense net, where autodiff already does what a person would: here the rule must cost nothing."""

import importlib.util
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import OURS, Work
from jaxnets import dense, heads

SIZES = ((128, (784, 128, 10)), (512, (784, 512, 512, 10)))


def works(quick: bool) -> Iterator[Work]:
    for size in SIZES[1:] if quick else SIZES:
        yield at(*size)


def at(B: int, sizes: tuple[int, ...]) -> Work:
    params = dense.init(jax.random.key(0), sizes)
    x, y = jax.random.normal(jax.random.key(1), (B, sizes[0])), jnp.arange(B) % sizes[-1]
    losses = {
        (OURS, OURS): dense.loss,
        ("plain", "jax"): plain,
        ("jax.checkpoint of it", "checkpoint"): jax.checkpoint(plain),
    }
    products = [a * b for a, b in itertools.pairwise(sizes)]
    operations = 2.0 * B * (3 * sum(products) - products[0])
    name = f"{B}," + "/".join(map(str, sizes))
    return Work("dense", name, "", operations, losses, params, (x, (y,)), others=partial(torch_steps, params, x, y))


def plain(p: dense.Params, x: jax.Array, y: jax.Array) -> jax.Array:
    for W, b in zip(p.W[:-1], p.b[:-1], strict=True):  # pyright: ignore[reportOptionalSubscript]
        x = jnp.tanh(x @ W + b)
    return heads.reference_loss(x @ p.W[-1] + p.b[-1], y)  # pyright: ignore[reportOptionalSubscript]


def torch_steps(params: dense.Params, x: jax.Array, y: jax.Array) -> dict[str, Any]:
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from benchmarks.torch_peer import put, step

    layers: list[Any] = []
    for W, b in zip(params.W, params.b or (), strict=True):
        layers += [torch.nn.Linear(W.shape[0], W.shape[1]), torch.nn.Tanh()]
        put(layers[-2], weight=W.T, bias=b)
    net = torch.nn.Sequential(*layers[:-1])
    return {"nn.Sequential": step(lambda x, y: torch.nn.functional.cross_entropy(net(x), y), (net,), (x, y))}
