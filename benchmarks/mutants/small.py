"""Functions of a few lines: logsumexp, cosine similarity, softmax regression, a bilinear score, a graph layer."""

import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp, one_hot, softmax

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights


def lse(x, w):
    return jnp.sum(w * logsumexp(x, axis=1))


def lse_by_hand(x, w):
    m = x.max(1, keepdims=True)
    e = jnp.exp(x - m)
    total = e.sum(1, keepdims=True)
    q = e / total
    return w[:, None] * q, (m + jnp.log(total))[:, 0]


def lse_args(rng, dtype, size="small"):
    """One row lies near 1000, where exp overflows in every precision, another near -1000."""
    B, D = sizes(size, 4, 5)
    offset = jnp.zeros((B, 1), dtype).at[0].set(1000).at[1].set(-1000)
    return draw(rng, dtype, B, D) + offset, draw(rng, dtype, B)


def cosine(a, b, y):
    norms = jnp.sqrt((a**2).sum(1)) * jnp.sqrt((b**2).sum(1))
    return jnp.sum(((a * b).sum(1) / norms - y) ** 2) / 2


def cosine_by_hand(a, b, y):
    la, lb = jnp.sqrt((a**2).sum(1)), jnp.sqrt((b**2).sum(1))
    u, v = a / la[:, None], b / lb[:, None]
    q = (u * v).sum(1)
    q_bar = q - y
    a_bar = (q_bar / la)[:, None] * (v - q[:, None] * u)
    b_bar = (q_bar / lb)[:, None] * (u - q[:, None] * v)
    return a_bar, b_bar


def cosine_args(rng, dtype, size="small"):
    B, D = sizes(size, 5, 4)
    return 2 * draw(rng, dtype, B, D), draw(rng, dtype, B, D), draw(rng, dtype, B)


def regression(p, x, k):
    z = x @ p["W"] + p["c"]
    return -(log_softmax(z) * one_hot(k, z.shape[1], dtype=z.dtype)).sum() / len(x)


def regression_by_hand(p, x, k):
    z = x @ p["W"] + p["c"]
    z_bar = (softmax(z) - one_hot(k, z.shape[1], dtype=z.dtype)) / len(x)
    return {"W": x.T @ z_bar, "c": z_bar.sum(0)}


def regression_args(rng, dtype, size="small"):
    B, D, C = sizes(size, 7, 5, 3)
    p = {"W": weights(rng, dtype, D, C), "c": draw(rng, dtype, C)}
    return p, draw(rng, dtype, B, D), jnp.asarray(rng.integers(0, C, B))


def bilinear(A, x, y, t):
    return jnp.sum((((x @ A) * y).sum(1) - t) ** 2) / 2


def bilinear_by_hand(A, x, y, t):
    e = ((x @ A) * y).sum(1) - t
    A_bar = (e[:, None] * x).T @ y
    x_bar = e[:, None] * (y @ A.T)
    return A_bar, x_bar


def bilinear_args(rng, dtype, size="small"):
    """A is square, as a metric is: nothing but the numbers tells it from its transpose."""
    B, D = sizes(size, 6, 4)
    return weights(rng, dtype, D, D), draw(rng, dtype, B, D), draw(rng, dtype, B, D), draw(rng, dtype, B)


def graph(p, P, x, y):
    """A layer of a net on a directed graph; row i of P weighs the neighbours of node i."""
    W, b = p
    return jnp.sum((jnp.tanh(P @ x @ W + b) - y) ** 2) / 2


def graph_by_hand(p, P, x, y):
    W, b = p
    m = P @ x
    h = jnp.tanh(m @ W + b)
    s_bar = (h - y) * (1 - h**2)
    m_bar = s_bar @ W.T
    x_bar = P.T @ m_bar
    P_bar = m_bar @ x.T
    return (m.T @ s_bar, s_bar.sum(0)), P_bar, x_bar


def graph_args(rng, dtype, size="small"):
    N, D, H = sizes(size, 5, 3, 4)
    p = weights(rng, dtype, D, H), draw(rng, dtype, H, scale=0.3)
    return p, weights(rng, dtype, N, N), draw(rng, dtype, N, D), draw(rng, dtype, N, H)


LSE = Subject("logsumexp", lse, lse_by_hand, lse_args, argnums=(0, 1))
COSINE = Subject("cosine similarity", cosine, cosine_by_hand, cosine_args, argnums=(0, 1))
REGRESSION = Subject("softmax regression", regression, regression_by_hand, regression_args)
BILINEAR = Subject("bilinear score", bilinear, bilinear_by_hand, bilinear_args, argnums=(0, 1))
GRAPH = Subject("graph layer", graph, graph_by_hand, graph_args, argnums=(0, 1, 2))
SUBJECTS = [LSE, COSINE, REGRESSION, BILINEAR, GRAPH]
MUTANTS = [
    Mutant(LSE, "jnp.exp(x - m)", "jnp.exp(x)", {"nan"}),
    Mutant(LSE, "q = e / total", "q = jnp.exp(x) / jnp.exp(x).sum(1, keepdims=True)", {"nan"}),
    Mutant(LSE, "q = e / total", "q = e", {"factor", "scale"}),
    Mutant(LSE, "w[:, None] * q", "q", {"factor"}),
    Mutant(LSE, "w[:, None] * q", "w[:, None] * q * (1 - q)", {"factor"}),
    Mutant(LSE, "(m + jnp.log(total))", "(jnp.log(total))", {"path", "place"}),
    Mutant(LSE, "(m + jnp.log(total))[:, 0]", "m + jnp.log(total)", {"shape"}),
    Mutant(LSE, "w[:, None] * q", "w[:, None] * q + 1e-3", {"constant"}),
    Mutant(COSINE, "v - q[:, None] * u", "v", {"path"}),
    Mutant(COSINE, "v - q[:, None] * u", "v + q[:, None] * u", {"sign", "path"}),
    Mutant(COSINE, "v - q[:, None] * u", "v - u", {"factor", "path"}),
    Mutant(COSINE, "(q_bar / la)", "q_bar", {"factor", "scale"}),
    Mutant(COSINE, "(q_bar / lb)", "(q_bar / lb**2)", {"factor", "scale"}),
    Mutant(COSINE, "u - q[:, None] * v", "a - q[:, None] * v", {"place", "factor"}),
    Mutant(COSINE, "(q_bar / lb)", "(1 / lb)", {"factor"}),
    Mutant(COSINE, "return a_bar, b_bar", "return b_bar, a_bar", {"place"}),
    Mutant(COSINE, "q_bar = q - y", "q_bar = 2 * (q - y)", {"scale"}),
    Mutant(COSINE, "return a_bar, b_bar", "return a_bar, b_bar.sum(0)", {"shape", "batch"}),
    Mutant(REGRESSION, "softmax(z) - one_hot(k, z.shape[1], dtype=z.dtype)", "softmax(z)", {"path"}),
    Mutant(REGRESSION, "one_hot(k, z", "one_hot(jnp.roll(k, 1), z", {"shift", "place"}),
    Mutant(REGRESSION, "one_hot(k, z", "one_hot(k - 1, z", {"shift", "place"}),
    Mutant(REGRESSION, ") / len(x)", ")", {"scale", "batch"}),
    Mutant(REGRESSION, ") / len(x)", ") / z.shape[1]", {"scale"}),
    Mutant(REGRESSION, "x.T @ z_bar", "z_bar.T @ x", {"shape", "transpose"}),
    Mutant(REGRESSION, "z_bar.sum(0)", "z_bar[0]", {"batch"}),
    Mutant(REGRESSION, "z_bar.sum(0)", "z_bar[-1]", {"batch"}),
    Mutant(REGRESSION, '"c": z_bar.sum(0)', '"c": z_bar', {"shape", "batch"}),
    Mutant(REGRESSION, ', "c": z_bar.sum(0)', "", {"shape"}),
    Mutant(
        REGRESSION,
        "(softmax(z) - one_hot(k, z.shape[1], dtype=z.dtype))",
        "softmax(z) * (1 - softmax(z)) * (softmax(z) - one_hot(k, z.shape[1], dtype=z.dtype))",
        {"factor"},
    ),
    Mutant(BILINEAR, "(e[:, None] * x).T @ y", "y.T @ (e[:, None] * x)", {"transpose"}),
    Mutant(BILINEAR, "y @ A.T", "y @ A", {"transpose"}),
    Mutant(BILINEAR, "(e[:, None] * x).T @ y", "x.T @ y", {"factor"}),
    Mutant(BILINEAR, "(e[:, None] * x).T @ y", "(e[:1, None] * x[:1]).T @ y[:1]", {"batch"}),
    Mutant(BILINEAR, "* x).T @ y", "* x).T @ y / len(t)", {"batch", "scale"}),
    Mutant(GRAPH, "P.T @ m_bar", "P @ m_bar", {"transpose"}),
    Mutant(GRAPH, "m_bar @ x.T", "x @ m_bar.T", {"transpose"}),
    Mutant(GRAPH, "(m.T @ s_bar", "(x.T @ s_bar", {"place", "factor", "path"}),
    Mutant(GRAPH, "(1 - h**2)", "(1 - (m @ W + b) ** 2)", {"place"}),
    Mutant(GRAPH, "x_bar = P.T @ m_bar", "x_bar = m_bar", {"factor", "path"}),
    Mutant(GRAPH, "x_bar = P.T @ m_bar", "x_bar = jnp.diag(P)[:, None] * m_bar", {"path"}),
    Mutant(GRAPH, "s_bar.sum(0)", "s_bar.sum(1)", {"shape"}),
    Mutant(GRAPH, "(h - y)", "(h + y)", {"sign"}),
]
