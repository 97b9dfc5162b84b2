"""A largest or smallest value with planted ties of two and three. Right here means: shared, as JAX does it."""

import jax.numpy as jnp
from jax.nn import one_hot, relu

from benchmarks.mutants.core import Mutant, Subject, draw, grid, sizes


def means(c, x):
    """K-means: every point pays the squared distance to the nearest centre."""
    return ((x[:, None] - c) ** 2).sum(-1).min(1).sum() / len(x)


def means_by_hand(c, x):
    gap = x[:, None] - c
    d = (gap**2).sum(-1)
    win = (d == d.min(1, keepdims=True)).astype(d.dtype)
    d_bar = win / win.sum(1, keepdims=True)
    gap_bar = 2 * d_bar[..., None] * gap / len(x)
    return -gap_bar.sum(0), gap_bar.sum(1)


def means_args(rng, dtype, size="small"):
    """Two centres coincide, and some of the points are theirs; the last centre is far from every point."""
    B, K, D = sizes(size, 7, 4, 3)
    c = draw(rng, dtype, K, D)
    c = c.at[1].set(c[0]).at[-1].set(20)
    x = draw(rng, dtype, B, D)
    return c, x.at[:3].set(c[0] + 0.2 * x[:3])


def pool(w, x, y):
    """Largest weighted value over time."""
    return jnp.sum(((x * w).max(1) - y) ** 2) / 2


def pool_by_hand(w, x, y):
    s = x * w
    m = s.max(1)
    m_bar = m - y
    win = (s == m[:, None]).astype(s.dtype)
    s_bar = m_bar[:, None] * win / win.sum(1, keepdims=True)
    return (s_bar * x).sum((0, 1)), s_bar * w


def pool_args(rng, dtype, size="small"):
    """In the first example two steps win together, in the second three."""
    B, T, S = sizes(size, 3, 6, 4)
    w, x = draw(rng, dtype, S), draw(rng, dtype, B, T, S)
    top = 4 * jnp.sign(w)
    x = x.at[0, jnp.array([1, 4])].set(top).at[1, jnp.array([0, 2, 5])].set(top)
    return w, x, draw(rng, dtype, B, S)


def hinge(W, x, k):
    """Margin of the right class over the best other one, each class a column of W."""
    z = x @ W
    own = one_hot(k, z.shape[1], dtype=bool)
    margin = 0.7 + jnp.where(own, -jnp.inf, z).max(1) - jnp.where(own, z, 0).sum(1)
    return relu(margin).sum()


def hinge_by_hand(W, x, k):
    z = x @ W
    own = one_hot(k, z.shape[1], dtype=bool)
    rival = jnp.where(own, -jnp.inf, z)
    best = rival.max(1)
    active = 0.7 + best - jnp.where(own, z, 0).sum(1) > 0
    win = (rival == best[:, None]).astype(z.dtype)
    z_bar = active[:, None] * (win / win.sum(1, keepdims=True) - own)
    return x.T @ z_bar, z_bar @ W.T


def hinge_args(rng, dtype, size="small"):
    """Three columns agree, and they win in the first two examples; numbers are few bits, so that the ties are exact."""
    B, D, C = sizes(size, 7, 4, 5)
    W, x = grid(rng, dtype, D, C), grid(rng, dtype, B, D)
    W = W.at[:, 1].set(W[:, 0]).at[:, 2].set(W[:, 0])
    x = x.at[:2].set(jnp.sign(W[:, 0]) + (W[:, 0] == 0)).at[1].multiply(0.5)
    k = rng.integers(0, C, B)
    k[:2] = C - 1
    return W, x, jnp.asarray(k)


def largest(x, y):
    """Largest absolute error of each row (Chebyshev), where two or three components share it."""
    return jnp.abs(x - y).max(1).sum()


def largest_by_hand(x, y):
    r = x - y
    size = jnp.abs(r)
    win = (size == size.max(1, keepdims=True)).astype(r.dtype)
    return jnp.sign(r) * win / win.sum(1, keepdims=True)


def largest_args(rng, dtype, size="small"):
    B, D = sizes(size, 4, 5)
    x, y = grid(rng, dtype, B, D), grid(rng, dtype, B, D)
    x = x.at[0, :3].set(y[0, :3] + jnp.array([3, -3, 3], dtype))
    return x.at[1, 1].set(y[1, 1] - 4).at[1, 3].set(y[1, 3] + 4), y


MEANS = Subject("k-means", means, means_by_hand, means_args, argnums=(0, 1))
POOL = Subject("max over time", pool, pool_by_hand, pool_args, argnums=(0, 1))
HINGE = Subject("hinge", hinge, hinge_by_hand, hinge_args, argnums=(0, 1))
LARGEST = Subject("largest error", largest, largest_by_hand, largest_args)
SUBJECTS = [MEANS, POOL, HINGE, LARGEST]
MUTANTS = [
    Mutant(MEANS, "d_bar = win / win.sum(1, keepdims=True)", "d_bar = win", {"tie"}),
    Mutant(MEANS, "d.min(1", "d.max(1", {"tie", "place"}),
    Mutant(MEANS, "d_bar = win / win.sum(1, keepdims=True)", "d_bar = win * (win.sum(1, keepdims=True) == 1)", {"tie"}),
    Mutant(MEANS, "2 * d_bar", "d_bar", {"scale"}),
    Mutant(MEANS, "-gap_bar.sum(0), gap", "gap_bar.sum(0), gap", {"sign"}),
    Mutant(MEANS, "gap / len(x)", "gap / win.sum(0)[:, None]", {"nan"}),
    Mutant(POOL, "* win / win.sum(1, keepdims=True)", "* win", {"tie"}),
    Mutant(POOL, "* win / win.sum(1, keepdims=True)", "* win * (win.sum(1, keepdims=True) == 1)", {"tie"}),
    Mutant(POOL, "(s == m[:, None])", "(s == s.min(1, keepdims=True))", {"tie", "place"}),
    Mutant(POOL, "s == m[:, None]", "jnp.roll(s, 1, axis=1) == m[:, None]", {"shift", "tie"}),
    Mutant(POOL, "s_bar * w", "s_bar", {"factor"}),
    Mutant(POOL, "(s_bar * x).sum((0, 1))", "(s_bar * x).sum(1)", {"shape", "batch"}),
    Mutant(POOL, "* win / win.sum(1, keepdims=True)", "* jnp.ones_like(win) / s.shape[1]", {"factor", "place", "tie"}),
    Mutant(HINGE, "win / win.sum(1, keepdims=True) - own", "win - own", {"tie"}),
    Mutant(HINGE, "active[:, None] *", "", {"factor"}),
    Mutant(HINGE, "keepdims=True) - own)", "keepdims=True))", {"path"}),
    Mutant(HINGE, "x.T @ z_bar", "(z_bar.T @ x)", {"shape", "transpose"}),
    Mutant(HINGE, "best - jnp.where(own, z, 0).sum(1) > 0", "best > 0", {"place", "tie", "factor"}),
    Mutant(LARGEST, "* win / win.sum(1, keepdims=True)", "* win", {"tie"}),
    Mutant(LARGEST, "jnp.sign(r) *", "", {"sign", "factor"}),
    Mutant(LARGEST, "size.max(1, keepdims=True)", "size.max()", {"nan"}),
]
