"""Dense net of three layers (D1 to D4) under a softmax head, line by line."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, one_hot, softmax

from benchmarks.mutants.core import Derivation, Mutant, draw, sizes, weights
from jaxnets import check


class Params(NamedTuple):
    W1: jax.Array  # [D, H]
    b1: jax.Array  # [H]
    W2: jax.Array  # [H, H] as wide as the one before, so that its transpose fits
    b2: jax.Array  # [H]
    W3: jax.Array  # [H, C]
    b3: jax.Array  # [C]


def forward(p, x, k):
    s1 = check.mark("s1", x @ p.W1 + p.b1)  # (D1)
    a1 = check.mark("a1", jnp.tanh(s1))
    s2 = check.mark("s2", a1 @ p.W2 + p.b2)
    a2 = check.mark("a2", jnp.tanh(s2))
    s3 = check.mark("s3", a2 @ p.W3 + p.b3)
    return -jnp.sum(log_softmax(s3) * one_hot(k, s3.shape[1], dtype=s3.dtype))


def backward(p, x, k):
    s1 = x @ p.W1 + p.b1
    a1 = jnp.tanh(s1)
    s2 = a1 @ p.W2 + p.b2
    a2 = jnp.tanh(s2)
    y = softmax(a2 @ p.W3 + p.b3)
    delta3 = y - one_hot(k, len(p.b3), dtype=y.dtype)  # (D2)
    a2_bar = delta3 @ p.W3.T
    delta2 = a2_bar * (1 - a2**2)  # (D3)
    a1_bar = delta2 @ p.W2.T
    delta1 = a1_bar * (1 - a1**2)
    x_bar = delta1 @ p.W1.T
    W3_bar, b3_bar = a2.T @ delta3, delta3.sum(0)  # (D4)
    W2_bar, b2_bar = a1.T @ delta2, delta2.sum(0)
    W1_bar, b1_bar = x.T @ delta1, delta1.sum(0)
    lines = {"s3": delta3, "a2": a2_bar, "s2": delta2, "a1": a1_bar, "s1": delta1, "x": x_bar}
    return {**lines, "W1": W1_bar, "b1": b1_bar, "W2": W2_bar, "b2": b2_bar, "W3": W3_bar, "b3": b3_bar}


def args(rng, dtype, size="small"):
    B, D, H, C = sizes(size, 6, 4, 5, 3)
    p = Params(
        W1=weights(rng, dtype, D, H),
        b1=draw(rng, dtype, H, scale=0.3),
        W2=weights(rng, dtype, H, H),
        b2=draw(rng, dtype, H, scale=0.3),
        W3=weights(rng, dtype, H, C),
        b3=draw(rng, dtype, C, scale=0.3),
    )
    return p, draw(rng, dtype, B, D), jnp.asarray(rng.integers(0, C, B))


DENSE = Derivation("dense", forward, backward, args)
DERIVATIONS = [DENSE]
MUTANTS = [
    Mutant(DENSE, "(1 - a2**2)", "(1 - s2**2)", {"place"}, "s2"),
    Mutant(DENSE, "(1 - a2**2)", "(1 - jnp.tanh(a2) ** 2)", {"place"}, "s2"),
    Mutant(DENSE, "a2_bar * (1 - a2**2)", "a2_bar * a2 * (1 - a2)", {"factor", "place"}, "s2"),
    Mutant(DENSE, "(1 - a1**2)", "(1 - a2**2)", {"place", "factor"}, "s1"),
    Mutant(DENSE, " * (1 - a1**2)", "", {"factor"}, "s1"),
    Mutant(DENSE, "(1 - a1**2)", "(a1**2 - 1)", {"sign"}, "s1"),
    Mutant(DENSE, "delta2 @ p.W2.T", "delta2 @ p.W2", {"transpose"}, "a1"),
    Mutant(DENSE, "delta2 @ p.W2.T", "a2_bar @ p.W2.T", {"factor"}, "a1"),
    Mutant(DENSE, "delta2 @ p.W2.T", "delta2 @ p.W2.T / len(x)", {"scale", "batch"}, "a1"),
    Mutant(DENSE, "a1.T @ delta2", "delta2.T @ a1", {"transpose"}, "W2"),
    Mutant(DENSE, "a1.T @ delta2", "a2.T @ delta2", {"shift", "place"}, "W2"),
    Mutant(DENSE, "a1.T @ delta2", "s1.T @ delta2", {"place"}, "W2"),
    Mutant(DENSE, "a2.T @ delta3", "delta3.T @ a2", {"shape", "transpose"}, "W3"),
    Mutant(DENSE, "delta3.sum(0)", "delta3.mean(0)", {"batch", "scale"}, "b3"),
    Mutant(DENSE, "delta2.sum(0)", "delta2", {"shape", "batch"}, "b2"),
    Mutant(DENSE, "delta1.sum(0)", "delta1.sum(0).at[2].multiply(-1)", {"sign"}, "b1"),
    Mutant(DENSE, "x.T @ delta1", "x.T @ delta1 + 1e-3", {"constant"}, "W1"),
    Mutant(DENSE, "x.T @ delta1", "x[:2].T @ delta1[:2]", {"batch", "path"}, "W1"),
    Mutant(DENSE, "y - one_hot(k, len(p.b3), dtype=y.dtype)", "y * (1 - y)", {"place", "factor", "path"}, "s3"),
    Mutant(DENSE, "x_bar = delta1 @ p.W1.T", "x_bar = a1_bar @ p.W1.T", {"factor"}, "x"),
]
