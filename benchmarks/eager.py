"""Calls without `jit`, as in a notebook: the first of a size, and every later one; PyTorch's of the same net beside it.

python -m benchmarks.eager
"""

import importlib.util
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


def torch_calls(net: str, params: Any, inputs: tuple[Any, ...], y: Any) -> dict[str, Callable[[], Any]]:
    """The same three, of the same weights, as PyTorch runs them."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch
    from torch.nn import functional

    from benchmarks.torch_peer import tensor

    leaves = jax.tree.map(lambda a: tensor(a).requires_grad_(), params)
    flat, given, target = jax.tree.leaves(leaves), [tensor(a) for a in inputs], tensor(y)
    if net == "recurrent":
        cell = torch.nn.RNN(*params.U.shape, batch_first=True)
        for name, a in {"weight_ih_l0": params.U.T, "weight_hh_l0": params.W.T, "bias_ih_l0": params.b}.items():
            getattr(cell, name).data = tensor(a)
        cell.bias_hh_l0.data.zero_()
        flat += [*cell.parameters()]

    def logits() -> Any:
        p, x = leaves, given[0]
        if net == "recurrent":
            return cell(x)[1][0] @ p.V + p.c
        if net == "text":
            words = functional.embedding(x, p.E).transpose(1, 2)
            scores = (functional.conv1d(words, U.permute(2, 1, 0), b) for U, b in zip(p.U, p.b, strict=True))
            return torch.cat([torch.tanh(s.amax(2)) for s in scores], 1) @ p.V + p.c
        if net == "gated":
            return ((x @ p.W) * (given[1] @ p.U)) @ p.v + x @ p.r + p.c
        for W, b in zip(p.W[:-1], p.b[:-1], strict=True):
            x = torch.tanh(x @ W + b)
        return x @ p.W[-1] + p.b[-1]

    def loss() -> Any:
        z = logits()
        if z.ndim == 1:
            return functional.binary_cross_entropy_with_logits(z, target.float())
        return functional.cross_entropy(z, target)

    def predict() -> Any:
        with torch.no_grad():
            z = logits()
            return torch.sigmoid(z) if z.ndim == 1 else torch.softmax(z, 1)

    def gradient() -> Any:
        for a in flat:
            a.grad = None
        loss().backward()

    return {"predict": predict, "loss": lambda: loss().item(), "gradient": gradient}


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
    print(f"{'net':<10} {'call':<10} {'first':>7} {'later':>7} {'under jit':>10} {'PyTorch':>8}")
    for name, (module, inputs, scored) in cases().items():
        params, *data, y = scored
        others = torch_calls(name, params, tuple(data), y)
        if others and not np.isclose(others["loss"](), module.loss(*scored), rtol=1e-4):
            raise RuntimeError(f"{name}: PyTorch computes another loss")
        for what, f, args in (
            ("predict", module.predict, inputs),
            ("loss", module.loss, scored),
            ("gradient", jax.grad(module.loss), scored),
        ):
            first, later = timed(partial(f, *args))
            _, jitted = timed(partial(jax.jit(f), *args))
            beside = f"{timed(others[what])[1]:>8.2f}" if others else f"{'–':>8}"
            print(f"{name:<10} {what:<10} {first:>7.0f} {later:>7.2f} {jitted:>10.2f} {beside}", flush=True)


if __name__ == "__main__":
    main()
