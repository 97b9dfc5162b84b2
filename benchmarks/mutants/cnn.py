"""Two convolutions over time with relu, written as windows, the mean over time, a softmax head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, one_hot, relu, softmax

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights

K = 3  # width of a window


class Params(NamedTuple):
    U1: jax.Array  # [K S, F] first filters
    b1: jax.Array  # [F]
    U2: jax.Array  # [K F, G] second filters
    b2: jax.Array  # [G]
    V: jax.Array  # [G, C] head
    c: jax.Array  # [C]


def windows(x):
    """[B, T, S] -> [B, T-K+1, K S], neighbours side by side."""
    n = x.shape[1] - K + 1
    return jnp.concatenate([x[:, i : i + n] for i in range(K)], axis=-1)


def f(p, x, k):
    h1 = relu(windows(x) @ p.U1 + p.b1)
    h2 = relu(windows(h1) @ p.U2 + p.b2)
    z = h2.mean(1) @ p.V + p.c
    return -jnp.sum(log_softmax(z) * one_hot(k, z.shape[1], dtype=z.dtype))


def by_hand(p, x, k):
    X1 = windows(x)
    s1 = X1 @ p.U1 + p.b1
    X2 = windows(relu(s1))
    s2 = X2 @ p.U2 + p.b2
    m = relu(s2).mean(1)
    z_bar = softmax(m @ p.V + p.c) - one_hot(k, len(p.c), dtype=m.dtype)

    def fold(X_bar, like):
        """Adjoint of `windows`: a row lies in up to K windows."""
        n, S = X_bar.shape[1], like.shape[2]
        bar = jnp.zeros_like(like)
        for i in range(K):
            bar = bar.at[:, i : i + n].add(X_bar[..., i * S : (i + 1) * S])
        return bar

    m_bar = z_bar @ p.V.T
    s2_bar = (s2 > 0) * m_bar[:, None] / s2.shape[1]
    h1_bar = fold(s2_bar @ p.U2.T, s1)
    s1_bar = jnp.where(s1 > 0, h1_bar, 0)
    x_bar = fold(s1_bar @ p.U1.T, x)
    return Params(
        U1=jnp.einsum("bti,btj->ij", X1, s1_bar),
        b1=s1_bar.sum((0, 1)),
        U2=jnp.einsum("bti,btj->ij", X2, s2_bar),
        b2=s2_bar.sum((0, 1)),
        V=m.T @ z_bar,
        c=z_bar.sum(0),
    ), x_bar


def args(rng, dtype, size="small"):
    B, T, S, F, G, C = sizes(size, 4, 11, 2, 5, 10, 8)
    p = Params(
        U1=weights(rng, dtype, K * S, F),
        b1=draw(rng, dtype, F, scale=0.3),
        U2=weights(rng, dtype, K * F, G),
        b2=draw(rng, dtype, G, scale=0.3),
        V=weights(rng, dtype, G, C),
        c=draw(rng, dtype, C, scale=0.3),
    )
    return p, draw(rng, dtype, B, T, S), jnp.asarray(rng.integers(0, C, B))


CNN = Subject("relu cnn", f, by_hand, args, argnums=(0, 1))
SUBJECTS = [CNN]
MUTANTS = [
    Mutant(CNN, ".add(X_bar", ".set(X_bar", {"overwrite"}),
    Mutant(CNN, "(s2 > 0) * m_bar[:, None]", "jnp.broadcast_to(m_bar[:, None], s2.shape)", {"factor"}),
    Mutant(CNN, "jnp.where(s1 > 0, h1_bar, 0)", "relu(h1_bar)", {"place", "factor"}),
    Mutant(CNN, "jnp.where(s1 > 0, h1_bar, 0)", "s1 * h1_bar", {"factor", "place"}),
    Mutant(CNN, "jnp.where(s1 > 0, h1_bar, 0)", "h1_bar", {"factor"}),
    Mutant(CNN, "(s2 > 0)", "(s2 < 0)", {"sign", "place", "factor"}),
    Mutant(CNN, " / s2.shape[1]", "", {"scale"}),
    Mutant(CNN, " / s2.shape[1]", " / s1.shape[1]", {"scale"}),
    Mutant(CNN, "for i in range(K)", "for i in range(K - 1)", {"path"}),
    Mutant(CNN, "bar.at[:, i : i + n]", "bar.at[:, K - 1 - i : K - 1 - i + n]", {"transpose", "shift", "place"}),
    Mutant(CNN, "X2, s2_bar", "X2[:, 1:], s2_bar[:, :-1]", {"shift"}),
    Mutant(CNN, "b1=s1_bar.sum((0, 1))", "b1=s1_bar.sum(1)", {"shape", "batch"}),
    Mutant(CNN, "b2=s2_bar.sum((0, 1))", "b2=s2_bar.sum(1)[0]", {"batch"}),
    Mutant(CNN, "V=m.T @ z_bar", "V=-m.T @ z_bar", {"sign"}),
    Mutant(CNN, 'U2=jnp.einsum("bti,btj->ij", X2', 'U2=jnp.einsum("bti,btj->ij", windows(s1)', {"place"}),
    Mutant(CNN, "c=z_bar.sum(0)", "c=z_bar.sum(0) + 0.01", {"constant"}),
]
