"""One head of attention whose keys have a bias: it shifts every score of a row alike, so its true gradient is zero."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import softmax

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights


class Params(NamedTuple):
    Q: jax.Array  # [D, H] to queries
    K: jax.Array  # [D, H] to keys
    b: jax.Array  # [H] bias of the keys
    V: jax.Array  # [D, C] to values


def f(p, x, y):
    q, k, v = x @ p.Q, x @ p.K + p.b, x @ p.V
    A = softmax(jnp.einsum("bth,bsh->bts", q, k) * q.shape[-1] ** -0.5)
    return jnp.sum((A @ v - y) ** 2) / (2 * len(x))


def by_hand(p, x, y):
    q, k, v = x @ p.Q, x @ p.K + p.b, x @ p.V
    root = q.shape[-1] ** -0.5
    A = softmax(jnp.einsum("bth,bsh->bts", q, k) * root)
    out_bar = (A @ v - y) / len(x)
    v_bar = jnp.einsum("bts,btc->bsc", A, out_bar)
    A_bar = jnp.einsum("btc,bsc->bts", out_bar, v)
    S_bar = A * (A_bar - (A * A_bar).sum(-1, keepdims=True)) * root
    q_bar = jnp.einsum("bts,bsh->bth", S_bar, k)
    k_bar = jnp.einsum("bts,bth->bsh", S_bar, q)
    Q_bar, K_bar, V_bar = (jnp.einsum("btd,bth->dh", x, bar) for bar in (q_bar, k_bar, v_bar))
    x_bar = q_bar @ p.Q.T + k_bar @ p.K.T + v_bar @ p.V.T
    return Params(Q=Q_bar, K=K_bar, b=k_bar.sum((0, 1)), V=V_bar), x_bar


def args(rng, dtype, size="small"):
    B, T, D, H, C = sizes(size, 3, 5, 4, 6, 2)
    p = Params(
        Q=weights(rng, dtype, D, H), K=weights(rng, dtype, D, H), b=draw(rng, dtype, H), V=weights(rng, dtype, D, C)
    )
    return p, draw(rng, dtype, B, T, D), draw(rng, dtype, B, T, C)


ATTENTION = Subject("attention", f, by_hand, args, argnums=(0, 1))
SUBJECTS = [ATTENTION]
MUTANTS = [
    Mutant(ATTENTION, " - (A * A_bar).sum(-1, keepdims=True)", "", {"path"}),
    Mutant(ATTENTION, "S_bar = A * (A_bar", "S_bar = (A_bar", {"factor"}),
    Mutant(
        ATTENTION,
        "S_bar = A * (A_bar - (A * A_bar).sum(-1, keepdims=True))",
        "S_bar = A_bar * A * (1 - A)",
        {"path", "factor"},
    ),
    Mutant(ATTENTION, "keepdims=True)) * root", "keepdims=True))", {"scale", "factor"}),
    Mutant(ATTENTION, "keepdims=True)) * root", "keepdims=True)) * root**2", {"scale", "factor"}),
    Mutant(ATTENTION, '"bts,bsh->bth", S_bar, k', '"bst,bsh->bth", S_bar, k', {"transpose"}),
    Mutant(ATTENTION, '"bts,bth->bsh", S_bar, q', '"bst,bth->bsh", S_bar, q', {"transpose"}),
    Mutant(ATTENTION, '"bts,btc->bsc", A, out_bar', '"bst,btc->bsc", A, out_bar', {"transpose"}),
    Mutant(ATTENTION, "+ k_bar @ p.K.T +", "+", {"path"}),
    Mutant(ATTENTION, "+ k_bar @ p.K.T +", "- k_bar @ p.K.T +", {"sign", "path"}),
    Mutant(ATTENTION, "b=k_bar.sum((0, 1))", "b=q_bar.sum((0, 1))", {"place", "path"}),
    Mutant(ATTENTION, "b=k_bar.sum((0, 1))", "b=k_bar.sum((0, 1)) + 1e-3", {"constant"}),
    Mutant(ATTENTION, "S_bar, k)", "S_bar, q)", {"place", "factor"}),
    Mutant(ATTENTION, "Q=Q_bar, K=K_bar", "Q=K_bar, K=Q_bar", {"place", "transpose"}),
    Mutant(ATTENTION, "V=V_bar)", "V=V_bar.T)", {"shape", "transpose"}),
    Mutant(ATTENTION, "V=V_bar)", "V=V_bar / len(x))", {"scale", "batch"}),
    Mutant(ATTENTION, "(A @ v - y) / len(x)", "(A @ v - y)", {"scale", "batch"}),
    Mutant(ATTENTION, "), x_bar", "), None", {"shape"}),
]
