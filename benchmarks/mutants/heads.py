"""Heads, line by line: logistic with a saturated row (H1 to H4), softmax with the mean over the batch (H5 to H7)."""

import jax.numpy as jnp
from jax.nn import log_softmax, one_hot, sigmoid, softmax, softplus

from benchmarks.mutants.core import Derivation, Mutant, draw, sizes, weights
from jaxnets import check


def logistic(v, c, h, t):
    a = check.mark("a", h @ v + c)
    return jnp.sum(softplus(a) - t * a)


def logistic_backward(v, c, h, t):
    y = sigmoid(h @ v + c)
    a_bar = y - t  # (H3)
    v_bar = h.T @ a_bar  # (H4)
    c_bar = a_bar.sum()
    h_bar = a_bar[:, None] * v
    return {"a": a_bar, "v": v_bar, "c": c_bar, "h": h_bar}


def logistic_args(rng, dtype, size="small"):
    B, H = sizes(size, 5, 4)
    v = weights(rng, dtype, H)
    h = draw(rng, dtype, B, H).at[0].set(60 * v / (v @ v))
    t = rng.integers(0, 2, B)
    t[0] = 1
    return v, jnp.asarray(0.4, dtype), h, jnp.asarray(t, dtype)


def softmax_head(V, c, h, k):
    z = check.mark("z", h @ V + c)
    return -jnp.sum(log_softmax(z) * one_hot(k, z.shape[1], dtype=z.dtype)) / len(h)


def softmax_backward(V, c, h, k):
    y = softmax(h @ V + c)
    z_bar = (y - one_hot(k, len(c), dtype=y.dtype)) / len(h)  # (H6)
    V_bar = h.T @ z_bar  # (H7)
    c_bar = z_bar.sum(0)
    h_bar = z_bar @ V.T
    return {"z": z_bar, "V": V_bar, "c": c_bar, "h": h_bar}


def softmax_args(rng, dtype, size="small"):
    B, H, C = sizes(size, 7, 5, 3)
    k = jnp.asarray(rng.integers(0, C, B))
    return weights(rng, dtype, H, C), draw(rng, dtype, C), draw(rng, dtype, B, H), k


LOGISTIC = Derivation("logistic head", logistic, logistic_backward, logistic_args)
SOFTMAX = Derivation("softmax head", softmax_head, softmax_backward, softmax_args)
DERIVATIONS = [LOGISTIC, SOFTMAX]
MUTANTS = [
    Mutant(LOGISTIC, "a_bar = y - t", "a_bar = (y - t) / (y * (1 - y)) * (y * (1 - y))", {"nan"}, "a"),
    Mutant(LOGISTIC, "a_bar = y - t", "a_bar = ((1 - t) / (1 - y) - t / y) * y * (1 - y)", {"nan"}, "a"),
    Mutant(LOGISTIC, "a_bar = y - t", "a_bar = t - y", {"sign"}, "a"),
    Mutant(LOGISTIC, "a_bar = y - t", "a_bar = (y - t) * y * (1 - y)", {"factor"}, "a"),
    Mutant(LOGISTIC, "a_bar = y - t", "a_bar = y", {"path"}, "a"),
    Mutant(LOGISTIC, "h.T @ a_bar", "h.T @ a_bar / len(h)", {"scale", "batch"}, "v"),
    Mutant(LOGISTIC, "h.T @ a_bar", "h[1] * a_bar[1]", {"batch"}, "v"),
    Mutant(LOGISTIC, "c_bar = a_bar.sum()", "c_bar = a_bar", {"shape", "batch"}, "c"),
    Mutant(LOGISTIC, "c_bar = a_bar.sum()", "c_bar = a_bar.sum() + 1e-3", {"constant"}, "c"),
    Mutant(LOGISTIC, "a_bar[:, None] * v", "jnp.outer(v, a_bar)", {"shape", "transpose"}, "h"),
    Mutant(LOGISTIC, "a_bar[:, None] * v", "a_bar[:, None] * h", {"factor", "place"}, "h"),
    Mutant(SOFTMAX, "one_hot(k, len(c), dtype=y.dtype)", "1", {"constant", "place", "path"}, "z"),
    Mutant(
        SOFTMAX,
        "(y - one_hot(k, len(c), dtype=y.dtype))",
        "y * (1 - y) * (y - one_hot(k, len(c), dtype=y.dtype))",
        {"factor"},
        "z",
    ),
    Mutant(SOFTMAX, ") / len(h)", ")", {"scale", "batch"}, "z"),
    Mutant(SOFTMAX, ") / len(h)", ") / len(c)", {"scale"}, "z"),
    Mutant(SOFTMAX, "z_bar @ V.T", "jnp.roll(z_bar, 1, axis=0) @ V.T", {"shift"}, "h"),
    Mutant(SOFTMAX, "h.T @ z_bar", "h.T @ y", {"place", "path"}, "V"),
    Mutant(SOFTMAX, "z_bar.sum(0)", "z_bar.sum(1)", {"shape"}, "c"),
    Mutant(SOFTMAX, "z_bar.sum(0)", "z_bar.mean(0)", {"batch", "scale"}, "c"),
    Mutant(SOFTMAX, "h_bar = z_bar @ V.T", "h_bar = z_bar @ V.T + 1e-3", {"constant"}, "h"),
]
