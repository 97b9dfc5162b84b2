"""A matrix of 90,000 numbers beside a bias of three: what is small or alone must still be seen."""

import jax.numpy as jnp

from benchmarks.mutants.core import Mutant, Subject, draw, weights


def f(p, x, y):
    h = jnp.tanh(x @ p["W"])
    return jnp.sum((h @ p["V"] + p["c"] - y) ** 2) / 2


def by_hand(p, x, y):
    h = jnp.tanh(x @ p["W"])
    z_bar = h @ p["V"] + p["c"] - y
    s_bar = z_bar @ p["V"].T * (1 - h**2)
    W_bar, V_bar, c_bar = x.T @ s_bar, h.T @ z_bar, z_bar.sum(0)
    return {"W": W_bar, "V": V_bar, "c": c_bar}


def args(rng, dtype, size="small"):
    """Large makes W a matrix of a million."""
    B, D, H, C = (4, 300, 301, 3) if size == "small" else (40, 1000, 1010, 3)
    p = {"W": weights(rng, dtype, D, H), "V": weights(rng, dtype, H, C), "c": draw(rng, dtype, C)}
    return p, draw(rng, dtype, B, D), draw(rng, dtype, B, C)


WIDE = Subject("wide net", f, by_hand, args)
SUBJECTS = [WIDE]
MUTANTS = [
    Mutant(WIDE, "z_bar.sum(0)\n", "1.01 * z_bar.sum(0)\n", {"scale"}),
    Mutant(WIDE, '"W": W_bar', '"W": W_bar.at[17, 203].multiply(-1)', {"sign"}),
    Mutant(WIDE, '"W": W_bar', '"W": W_bar.at[250, 4].set(0)', {"path", "factor", "scale", "overwrite"}),
    Mutant(WIDE, '"W": W_bar', '"W": W_bar.at[:, 100].multiply(2)', {"scale"}),
    Mutant(WIDE, '"W": W_bar', '"W": W_bar + 1e-3', {"constant"}),
    Mutant(WIDE, '"V": V_bar', '"V": V_bar.at[5].multiply(-1)', {"sign"}),
    Mutant(WIDE, '"c": c_bar', '"c": c_bar.at[1].add(1e-3)', {"constant"}),
    Mutant(WIDE, "(1 - h**2)", "(1 - h**2 / 2)", {"scale", "factor"}),
]
