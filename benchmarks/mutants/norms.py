"""Layer norm as a gradient and line by line, root-mean-square norm with a padded row, batch norm after a bias."""

import jax.numpy as jnp

from benchmarks.mutants.core import Derivation, Mutant, Subject, draw, sizes, weights
from jaxnets import check

EPS = 1e-3


def layer_norm(x, gamma, beta, y):
    mu = check.mark("mu", x.mean(1, keepdims=True))
    d = check.mark("d", x - mu)
    var = check.mark("var", (d**2).mean(1, keepdims=True))
    xhat = check.mark("xhat", d / jnp.sqrt(var + EPS))
    out = check.mark("out", xhat * gamma + beta)
    return jnp.sum((out - y) ** 2) / (2 * len(x))


def layer_norm_by_hand(x, gamma, beta, y):
    mu, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    r = 1 / jnp.sqrt(var + EPS)
    xhat = (x - mu) * r
    out_bar = (xhat * gamma + beta - y) / len(x)
    xhat_bar = out_bar * gamma
    mean = xhat_bar.mean(1, keepdims=True)
    slope = (xhat_bar * xhat).mean(1, keepdims=True)
    x_bar = r * (xhat_bar - mean - xhat * slope)
    return x_bar, (out_bar * xhat).sum(0), out_bar.sum(0)


def layer_norm_backward(x, gamma, beta, y):
    B, D = x.shape
    d = x - x.mean(1, keepdims=True)
    r = 1 / jnp.sqrt((d**2).mean(1, keepdims=True) + EPS)
    xhat = d * r
    out_bar = (xhat * gamma + beta - y) / B
    gamma_bar = (out_bar * xhat).sum(0)
    beta_bar = out_bar.sum(0)
    xhat_bar = out_bar * gamma
    var_bar = -(xhat_bar * d * r**3).sum(1, keepdims=True) / 2
    d_bar = xhat_bar * r + 2 * d * var_bar / D
    mu_bar = -d_bar.sum(1, keepdims=True)
    x_bar = d_bar + mu_bar / D
    lines = {"out": out_bar, "xhat": xhat_bar, "var": var_bar, "d": d_bar, "mu": mu_bar}
    return {**lines, "gamma": gamma_bar, "beta": beta_bar, "x": x_bar}


def layer_norm_args(rng, dtype, size="small"):
    B, D = sizes(size, 4, 7)
    return 2 * draw(rng, dtype, B, D) + 1, draw(rng, dtype, D), draw(rng, dtype, D), draw(rng, dtype, B, D)


def rms_norm(x, gamma, y):
    out = x / jnp.sqrt((x**2).mean(1, keepdims=True) + 0.01) * gamma
    return jnp.sum((out - y) ** 2) / 2


def rms_norm_by_hand(x, gamma, y):
    eps = 0.01
    r = 1 / jnp.sqrt((x**2).mean(1, keepdims=True) + eps)
    xhat = x * r
    out_bar = xhat * gamma - y
    xhat_bar = out_bar * gamma
    x_bar = r * (xhat_bar - xhat * (xhat_bar * xhat).mean(1, keepdims=True))
    return x_bar, (out_bar * xhat).sum(0)


def rms_norm_args(rng, dtype, size="small"):
    """The last row is padding: all zero, where only eps keeps the quotient finite."""
    B, D = sizes(size, 5, 6)
    return draw(rng, dtype, B, D).at[-1].set(0), draw(rng, dtype, D), draw(rng, dtype, B, D)


def batch_norm(p, x, y):
    """The bias b is taken out again by the mean: its true gradient is zero."""
    W, b, gamma, beta = p
    s = x @ W + b
    out = (s - s.mean(0)) / jnp.sqrt(s.var(0) + EPS) * gamma + beta
    return jnp.sum((out - y) ** 2) / (2 * len(x))


def batch_norm_by_hand(p, x, y):
    W, b, gamma, beta = p
    s = x @ W + b
    r = 1 / jnp.sqrt(s.var(0) + EPS)
    shat = (s - s.mean(0)) * r
    out_bar = (shat * gamma + beta - y) / len(x)
    gamma_bar = (out_bar * shat).sum(0)
    beta_bar = out_bar.sum(0)
    shat_bar = out_bar * gamma
    s_bar = r * (shat_bar - shat_bar.mean(0) - shat * (shat_bar * shat).mean(0))
    return x.T @ s_bar, s_bar.sum(0), gamma_bar, beta_bar


def batch_norm_args(rng, dtype, size="small"):
    B, D, H = sizes(size, 6, 4, 5)
    p = weights(rng, dtype, D, H), draw(rng, dtype, H), draw(rng, dtype, H), draw(rng, dtype, H)
    return p, 2 * draw(rng, dtype, B, D), draw(rng, dtype, B, H)


LAYER = Subject("layer norm", layer_norm, layer_norm_by_hand, layer_norm_args, argnums=(0, 1, 2))
LINES = Derivation("layer norm, line by line", layer_norm, layer_norm_backward, layer_norm_args)
RMS = Subject("rms norm", rms_norm, rms_norm_by_hand, rms_norm_args, argnums=(0, 1))
BATCH = Subject("batch norm", batch_norm, batch_norm_by_hand, batch_norm_args)
SUBJECTS = [LAYER, RMS, BATCH]
DERIVATIONS = [LINES]
_half = ".sum(1, keepdims=True) / 2"
MUTANTS = [
    Mutant(LAYER, "xhat_bar - mean - xhat * slope", "xhat_bar - xhat * slope", {"path"}),
    Mutant(LAYER, "xhat_bar - mean - xhat * slope", "xhat_bar - mean", {"path"}),
    Mutant(LAYER, "xhat_bar - mean - xhat * slope", "xhat_bar - mean + xhat * slope", {"sign", "path"}),
    Mutant(LAYER, "xhat_bar - mean - xhat * slope", "xhat_bar", {"path"}),
    Mutant(LAYER, "x_bar = r * (", "x_bar = (", {"factor"}),
    Mutant(LAYER, "x_bar = r * (", "x_bar = r**2 * (", {"factor"}),
    Mutant(LAYER, "xhat_bar = out_bar * gamma", "xhat_bar = out_bar", {"factor"}),
    Mutant(LAYER, "(out_bar * xhat).sum(0)", "(out_bar * x).sum(0)", {"place", "factor"}),
    Mutant(LAYER, "out_bar.sum(0)", "out_bar.sum()", {"shape", "batch"}),
    Mutant(LAYER, "out_bar.sum(0)", "out_bar.mean(0)", {"batch", "scale"}),
    Mutant(
        LAYER, "(out_bar * xhat).sum(0), out_bar.sum(0)", "out_bar.sum(0), (out_bar * xhat).sum(0)", {"place", "factor"}
    ),
    Mutant(LAYER, "xhat * slope)", "xhat * slope) + EPS", {"constant"}),
    Mutant(LINES, "(xhat * gamma + beta - y) / B", "(y - xhat * gamma - beta) / B", {"sign"}, "out"),
    Mutant(LINES, "xhat_bar = out_bar * gamma", "xhat_bar = out_bar", {"factor"}, "xhat"),
    Mutant(LINES, "* r**3", "* r**2", {"factor"}, "var"),
    Mutant(LINES, _half, ".sum(1, keepdims=True)", {"scale"}, "var"),
    Mutant(LINES, "2 * d * var_bar / D", "d * var_bar / D", {"scale", "path"}, "d"),
    Mutant(LINES, " + 2 * d * var_bar / D", "", {"path"}, "d"),
    Mutant(LINES, "xhat_bar * r + 2", "xhat_bar + 2", {"factor"}, "d"),
    Mutant(LINES, "mu_bar = -d_bar", "mu_bar = d_bar", {"sign"}, "mu"),
    Mutant(LINES, "d_bar + mu_bar / D", "d_bar", {"path"}, "x"),
    Mutant(LINES, "d_bar + mu_bar / D", "d_bar + mu_bar", {"scale", "path"}, "x"),
    Mutant(LINES, "gamma_bar = (out_bar * xhat)", "gamma_bar = (out_bar * d)", {"place", "factor"}, "gamma"),
    Mutant(LINES, "out_bar.sum(0)\n    xhat_bar", "out_bar.sum(0, keepdims=True)\n    xhat_bar", {"shape"}, "beta"),
    Mutant(LINES, "/ D\n    lines", "/ D + 1e-3\n    lines", {"constant"}, "x"),
    Mutant(RMS, "keepdims=True) + eps)", "keepdims=True))", {"nan"}),
    Mutant(RMS, "xhat_bar - xhat * (xhat_bar * xhat)", "xhat_bar - xhat * xhat_bar * (xhat)", {"factor", "place"}),
    Mutant(RMS, " - xhat * (xhat_bar * xhat).mean(1, keepdims=True)", "", {"path"}),
    Mutant(RMS, "out_bar = xhat * gamma - y", "out_bar = y - xhat * gamma", {"sign"}),
    Mutant(RMS, "(out_bar * xhat).sum(0)", "out_bar * xhat", {"shape", "batch"}),
    Mutant(RMS, "x_bar = r *", "x_bar = xhat / x *", {"nan"}),
    Mutant(BATCH, "shat_bar - shat_bar.mean(0) - shat", "shat_bar - shat", {"path"}),
    Mutant(BATCH, " - shat * (shat_bar * shat).mean(0)", "", {"path"}),
    Mutant(BATCH, "s_bar = r * (", "s_bar = (", {"factor"}),
    Mutant(BATCH, "s_bar.sum(0), gamma_bar", "s_bar.sum(0) + 1e-3, gamma_bar", {"constant"}),
    Mutant(BATCH, "s_bar.sum(0), gamma_bar", "out_bar.sum(0), gamma_bar", {"path", "place"}),
    Mutant(BATCH, "(out_bar * shat).sum(0)", "(out_bar * s).sum(0)", {"place", "factor"}),
    Mutant(BATCH, "(shat * gamma + beta - y) / len(x)", "shat * gamma + beta - y", {"scale", "batch"}),
    Mutant(BATCH, "beta_bar = out_bar.sum(0)", "beta_bar = out_bar[0]", {"batch"}),
]
