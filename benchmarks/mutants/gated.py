"""Gated net (G1 to G7), line by line."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from benchmarks.mutants.core import Derivation, Mutant, draw, sizes, weights
from jaxnets import check


class Params(NamedTuple):
    W: jax.Array  # [a, c] from x
    U: jax.Array  # [b, c] from eta
    v: jax.Array  # [c] head
    r: jax.Array  # [a] straight from x to the head
    bias: jax.Array  # []


def forward(p, x, eta, t):
    z = check.mark("z", x @ p.W)  # (G1)
    s = check.mark("s", eta @ p.U)
    h = check.mark("h", z * s)
    z_y = check.mark("z_y", h @ p.v + x @ p.r + p.bias)  # (G2)
    return jnp.sum(softplus(z_y) - t * z_y) / len(x)


def backward(p, x, eta, t):
    z, s = x @ p.W, eta @ p.U
    h = z * s
    y = sigmoid(h @ p.v + x @ p.r + p.bias)
    z_y_bar = (y - t) / len(x)  # (G3)
    h_bar = z_y_bar[:, None] * p.v  # (G4)
    v_bar = h.T @ z_y_bar
    r_bar = x.T @ z_y_bar
    bias_bar = z_y_bar.sum()
    z_bar = h_bar * s  # (G5)
    s_bar = h_bar * z
    W_bar = x.T @ z_bar  # (G6)
    U_bar = eta.T @ s_bar
    x_bar = z_bar @ p.W.T + z_y_bar[:, None] * p.r  # (G7)
    eta_bar = s_bar @ p.U.T
    marks = {"z_y": z_y_bar, "h": h_bar, "z": z_bar, "s": s_bar}
    return {**marks, "v": v_bar, "r": r_bar, "bias": bias_bar, "W": W_bar, "U": U_bar, "x": x_bar, "eta": eta_bar}


def args(rng, dtype, size="small"):
    B, a, b, c = sizes(size, 6, 4, 3, 5)
    p = Params(
        W=weights(rng, dtype, a, c),
        U=weights(rng, dtype, b, c),
        v=weights(rng, dtype, c),
        r=weights(rng, dtype, a),
        bias=jnp.asarray(0.3, dtype),
    )
    t = jnp.asarray(rng.integers(0, 2, B), dtype)
    return p, 2 * draw(rng, dtype, B, a), draw(rng, dtype, B, b), t


GATED = Derivation("gated", forward, backward, args)
DERIVATIONS = [GATED]
MUTANTS = [
    Mutant(GATED, "(y - t) / len(x)", "(t - y) / len(x)", {"sign"}, "z_y"),
    Mutant(GATED, "(y - t) / len(x)", "(y - t)", {"scale", "batch"}, "z_y"),
    Mutant(GATED, "(y - t) / len(x)", "(y - t) / (y * (1 - y)) / len(x)", {"factor"}, "z_y"),
    Mutant(GATED, "z_y_bar[:, None] * p.v", "z_y_bar[:, None] * h", {"factor", "place"}, "h"),
    Mutant(GATED, "z_bar = h_bar * s", "z_bar = h_bar * z", {"factor", "place"}, "z"),
    Mutant(GATED, "z_bar = h_bar * s", "z_bar = h_bar", {"factor"}, "z"),
    Mutant(GATED, "s_bar = h_bar * z", "s_bar = h_bar * z * s", {"factor"}, "s"),
    Mutant(GATED, "s_bar = h_bar * z", "s_bar = h_bar * z * (1 - z)", {"factor"}, "s"),
    Mutant(GATED, " + z_y_bar[:, None] * p.r", "", {"path"}, "x"),
    Mutant(GATED, "z_bar @ p.W.T + z_y_bar", "z_y_bar", {"path"}, "x"),
    Mutant(GATED, "p.W.T + z_y_bar[:, None] * p.r", "p.W.T - z_y_bar[:, None] * p.r", {"sign", "path"}, "x"),
    Mutant(GATED, "eta.T @ s_bar", "s_bar.T @ eta", {"shape", "transpose"}, "U"),
    Mutant(GATED, "x.T @ z_bar", "x.T @ h_bar", {"factor"}, "W"),
    Mutant(GATED, "x.T @ z_y_bar", "(x * p.r).T @ z_y_bar", {"factor"}, "r"),
    Mutant(GATED, "bias_bar = z_y_bar.sum()", "bias_bar = z_y_bar.mean()", {"batch", "scale"}, "bias"),
    Mutant(GATED, "h.T @ z_y_bar", "z.T @ z_y_bar", {"factor", "place"}, "v"),
    Mutant(GATED, "eta_bar = s_bar", "eta_bar = 0.5 * s_bar", {"scale"}, "eta"),
    Mutant(GATED, "h.T @ z_y_bar", "h[0] * z_y_bar[0]", {"batch"}, "v"),
    Mutant(GATED, '"bias": bias_bar, ', "", {"shape"}, "bias"),
    Mutant(GATED, "x.T @ z_y_bar", "x.T @ z_y_bar + 1e-3", {"constant"}, "r"),
]
