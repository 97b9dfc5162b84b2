"""Logistic regression and a tanh unit, some of whose sums are far beyond what exp can hold."""

import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights


def logistic(p, x, t):
    v, c = p
    a = x @ v + c
    return jnp.sum(softplus(a) - t * a) / len(x)


def logistic_by_hand(p, x, t):
    v, c = p
    a = x @ v + c
    y = sigmoid(a)
    a_bar = (y - t) / len(x)
    return x.T @ a_bar, a_bar.sum()


def logistic_args(rng, dtype, size="small"):
    """The first row is surely a yes and the second surely a no, and so the targets say."""
    B, D = sizes(size, 5, 4)
    v = weights(rng, dtype, D)
    sure = 800 * v / (v @ v)
    x = draw(rng, dtype, B, D).at[0].set(sure).at[1].set(-sure)
    t = rng.integers(0, 2, B)
    t[:2] = 1, 0
    return (v, jnp.asarray(0.3, dtype)), x, jnp.asarray(t, dtype)


def unit(W, x, y):
    return jnp.sum((jnp.tanh(x @ W) - y) ** 2) / 2


def unit_by_hand(W, x, y):
    s = x @ W
    h = jnp.tanh(s)
    s_bar = (h - y) * (1 - h**2)
    return x.T @ s_bar, s_bar @ W.T


def unit_args(rng, dtype, size="small"):
    B, D, H = sizes(size, 5, 3, 4)
    x = draw(rng, dtype, B, D)
    return weights(rng, dtype, D, H), x.at[0].multiply(4000), draw(rng, dtype, B, H)


LOGISTIC = Subject("saturated logistic", logistic, logistic_by_hand, logistic_args)
UNIT = Subject("saturated tanh", unit, unit_by_hand, unit_args, argnums=(0, 1))
SUBJECTS = [LOGISTIC, UNIT]
MUTANTS = [
    Mutant(LOGISTIC, "(y - t)", "(y - t) / (y * (1 - y)) * y * (1 - y)", {"nan"}),
    Mutant(LOGISTIC, "(y - t)", "((1 - t) / (1 - y) - t / y) * y * (1 - y)", {"nan"}),
    Mutant(LOGISTIC, "y = sigmoid(a)", "y = jnp.exp(a) / (1 + jnp.exp(a))", {"nan"}),
    Mutant(LOGISTIC, "(y - t)", "(y - t) * y * (1 - y)", {"factor"}),
    Mutant(LOGISTIC, "x.T @ a_bar, a_bar.sum()", "x.T @ a_bar, a_bar.sum() - 1e-3", {"constant"}),
    Mutant(LOGISTIC, "(y - t) / len(x)", "(y - t)", {"scale", "batch"}),
    Mutant(LOGISTIC, "a_bar.sum()", "a_bar", {"shape", "batch"}),
    Mutant(UNIT, "h = jnp.tanh(s)", "h = (jnp.exp(s) - jnp.exp(-s)) / (jnp.exp(s) + jnp.exp(-s))", {"nan"}),
    Mutant(UNIT, "(1 - h**2)", "4 * jnp.exp(2 * s) / (jnp.exp(2 * s) + 1) ** 2", {"nan"}),
    Mutant(UNIT, "* (1 - h**2)", "", {"factor"}),
    Mutant(UNIT, "h - y", "y - h", {"sign"}),
]
