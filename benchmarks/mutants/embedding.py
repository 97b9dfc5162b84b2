"""Embedding bag: each row is the weighted mean of the vectors of its tokens, some of which occur twice."""

import jax.numpy as jnp

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights


def f(p, w, tokens, y):
    E, W, b = p
    m = (w[..., None] * E[tokens]).sum(1) / tokens.shape[1]
    return jnp.sum((jnp.tanh(m @ W + b) - y) ** 2) / 2


def by_hand(p, w, tokens, y):
    E, W, b = p
    T = tokens.shape[1]
    e = E[tokens]
    m = (w[..., None] * e).sum(1) / T
    h = jnp.tanh(m @ W + b)
    s_bar = (h - y) * (1 - h**2)
    W_bar, b_bar = m.T @ s_bar, s_bar.sum(0)
    m_bar = s_bar @ W.T / T
    w_bar = (e * m_bar[:, None]).sum(-1)
    E_bar = jnp.zeros_like(E).at[tokens].add(w[..., None] * m_bar[:, None])
    return (E_bar, W_bar, b_bar), w_bar


def args(rng, dtype, size="small"):
    B, T, V, S, C = sizes(size, 3, 6, 9, 4, 2)
    tokens = rng.integers(0, V - 1, (B, T))  # the last word never occurs
    tokens[:, 2] = tokens[:, 0]  # twice in one row
    tokens[1, 1] = tokens[0, 0]  # and in two rows
    p = draw(rng, dtype, V, S), weights(rng, dtype, S, C), draw(rng, dtype, C, scale=0.3)
    return p, draw(rng, dtype, B, T), jnp.asarray(tokens), draw(rng, dtype, B, C)


BAG = Subject("embedding bag", f, by_hand, args, argnums=(0, 1))
SUBJECTS = [BAG]
MUTANTS = [
    Mutant(BAG, "at[tokens].add(", "at[tokens].set(", {"overwrite"}),
    Mutant(
        BAG,
        "at[tokens].add(w[..., None] * m_bar[:, None])",
        "at[tokens[0]].add((w[..., None] * m_bar[:, None])[0])",
        {"batch"},
    ),
    Mutant(BAG, "add(w[..., None] * m_bar[:, None])", "add(jnp.broadcast_to(m_bar[:, None], e.shape))", {"factor"}),
    Mutant(BAG, "(1 - h**2)", "(1 - (m @ W) ** 2)", {"place"}),
    Mutant(BAG, " * (1 - h**2)", "", {"factor"}),
    Mutant(BAG, "s_bar @ W.T / T", "s_bar @ W.T", {"scale"}),
    Mutant(BAG, "s_bar @ W.T / T", "s_bar @ W.T / len(y)", {"scale"}),
    Mutant(BAG, "at[tokens]", "at[jnp.roll(tokens, 1, axis=1)]", {"shift"}),
    Mutant(BAG, "at[tokens]", "at[tokens + 1]", {"shift", "place"}),
    Mutant(BAG, "zeros_like(E).at", "full_like(E, 1e-3).at", {"constant"}),
    Mutant(BAG, "(e * m_bar[:, None]).sum(-1)", "(e * m_bar[:, None]).sum(-1).sum(0)", {"shape", "batch"}),
    Mutant(BAG, "(h - y) *", "(y - h) *", {"sign"}),
    Mutant(BAG, "(e * m_bar[:, None]).sum(-1)", "(w[..., None] * e * m_bar[:, None]).sum(-1)", {"factor"}),
]
