"""Text convolution, tanh, max over time (C1 to C7), line by line: on word vectors, and on tokens with ties planted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, one_hot, sigmoid, softmax, softplus

from benchmarks.mutants.core import Derivation, Mutant, draw, grid, sizes, weights
from jaxnets import check

K = 2  # width of a window


class Params(NamedTuple):
    U: jax.Array  # [K S, F] a filter per column
    b: jax.Array  # [F]
    v: jax.Array  # [F] head; [F, C] with tokens
    c: jax.Array  # [] bias of the head; [C] with tokens


def windows(w):
    """[B, T, S] -> [B, T-K+1, K S], neighbouring words side by side."""
    n = w.shape[1] - K + 1
    return jnp.concatenate([w[:, i : i + n] for i in range(K)], axis=-1)


def fold(X_bar, w):
    """Adjoint of `windows`: a word lies in up to K windows, and it accumulates."""
    n, S = X_bar.shape[1], w.shape[2]
    w_bar = jnp.zeros_like(w)
    for i in range(K):
        w_bar = w_bar.at[:, i : i + n].add(X_bar[..., i * S : (i + 1) * S])
    return w_bar


def pooled(p, w):
    """Score of the first best window of each filter (C1, C2), its tanh (C3)."""
    s = check.mark("s", windows(w) @ p.U + p.b)
    m = s.argmax(1)
    return check.mark("h", jnp.tanh(jnp.take_along_axis(s, m[:, None], axis=1)[:, 0]))


def forward(p, w, t):
    a = check.mark("a", pooled(p, w) @ p.v + p.c)
    return jnp.sum(softplus(a) - t * a)


def backward(p, w, t):
    B = len(w)
    X = windows(w)
    s = X @ p.U + p.b
    m = s.argmax(1)  # [B, F]
    h = jnp.tanh(jnp.take_along_axis(s, m[:, None], axis=1)[:, 0])
    x_m = X[jnp.arange(B)[:, None], m]  # [B, F, K S] the winning windows
    a_bar = sigmoid(h @ p.v + p.c) - t  # (H3)
    v_bar = h.T @ a_bar  # (H4)
    c_bar = a_bar.sum()
    h_bar = a_bar[:, None] * p.v
    C = h_bar * (1 - h**2)  # (C4)
    s_bar = one_hot(m, s.shape[1], axis=1, dtype=s.dtype) * C[:, None]
    U_bar = jnp.einsum("bf,bfi->if", C, x_m)  # (C5)
    b_bar = C.sum(0)
    w_bar = fold(s_bar @ p.U.T, w)  # (C6)
    lines = {"a": a_bar, "h": h_bar, "s": s_bar, "v": v_bar, "c": c_bar}
    return {**lines, "U": U_bar, "b": b_bar, "w": w_bar}


def args(rng, dtype, size="small"):
    B, T, S, F = sizes(size, 3, 7, 4, 5)
    U, b, v = weights(rng, dtype, K * S, F), draw(rng, dtype, F, scale=0.3), weights(rng, dtype, F)
    t = jnp.asarray(rng.integers(0, 2, B), dtype)
    return Params(U, b, v, jnp.asarray(0.2, dtype)), draw(rng, dtype, B, T, S), t


def forward_tokens(E, p, tokens, k):
    w = check.mark("w", E[tokens])
    z = check.mark("z", pooled(p, w) @ p.v + p.c)
    return -jnp.sum(log_softmax(z) * one_hot(k, z.shape[1], dtype=z.dtype))


def backward_tokens(E, p, tokens, k):
    w = E[tokens]
    X = windows(w)
    s = X @ p.U + p.b
    m = s.argmax(1)
    h = jnp.tanh(jnp.take_along_axis(s, m[:, None], axis=1)[:, 0])
    z_bar = softmax(h @ p.v + p.c) - one_hot(k, len(p.c), dtype=s.dtype)  # (H6)
    v_bar, c_bar = h.T @ z_bar, z_bar.sum(0)  # (H7)
    h_bar = z_bar @ p.v.T
    win = one_hot(m, s.shape[1], axis=1, dtype=s.dtype)
    s_bar = win * (h_bar * (1 - h**2))[:, None]  # (C4)
    U_bar = jnp.einsum("bti,btf->if", X, s_bar)  # (C5)
    b_bar = s_bar.sum((0, 1))
    w_bar = fold(s_bar @ p.U.T, w)  # (C6)
    E_bar = jnp.zeros_like(E).at[tokens].add(w_bar)  # (C7)
    lines = {"z": z_bar, "h": h_bar, "s": s_bar, "w": w_bar, "v": v_bar, "c": c_bar}
    return {**lines, "U": U_bar, "b": b_bar, "E": E_bar}


def args_tokens(rng, dtype, size="small"):
    """Two sentences say their first words again, so that windows tie; few bits make the ties exact."""
    B, T, V, S, F, C = sizes(size, 3, 10, 11, 4, 5, 6)
    tokens = rng.integers(0, V, (B, T))
    half = T // 2
    tokens[:2, half:] = tokens[:2, :half]
    tokens[2:, 3] = tokens[2:, 0]
    p = Params(grid(rng, dtype, K * S, F), grid(rng, dtype, F), weights(rng, dtype, F, C), draw(rng, dtype, C))
    # small scores, where tanh still has a slope
    p = p._replace(U=p.U / 4, b=p.b / 4)
    return grid(rng, dtype, V, S), p, jnp.asarray(tokens), jnp.asarray(rng.integers(0, C, B))


VECTORS = Derivation("textconv", forward, backward, args)
TOKENS = Derivation("textconv, tokens", forward_tokens, backward_tokens, args_tokens)
DERIVATIONS = [VECTORS, TOKENS]
_to_words = "jnp.zeros_like(E).at[tokens]"
MUTANTS = [
    Mutant(VECTORS, "C = h_bar * (1 - h**2)", "C = h_bar * (1 - (p.U**2).sum(0))", {"place", "factor"}, "s"),
    Mutant(VECTORS, "C = h_bar * (1 - h**2)", "C = h_bar", {"factor"}, "s"),
    Mutant(VECTORS, "(1 - h**2)", "(1 + h**2)", {"sign", "factor"}, "s"),
    Mutant(VECTORS, "(1 - h**2)", "(1 - jnp.tanh(h) ** 2)", {"place"}, "s"),
    Mutant(
        VECTORS, '"bf,bfi->if", C, x_m', '"bf,i->if", C, jnp.ones(x_m.shape[-1], C.dtype)', {"factor", "place"}, "U"
    ),
    Mutant(VECTORS, "x_m = X[jnp.arange(B)[:, None], m]", "x_m = X[jnp.arange(B)[:, None], m - 1]", {"shift"}, "U"),
    Mutant(VECTORS, "C, x_m)", "C[:1], x_m[:1])", {"batch"}, "U"),
    Mutant(VECTORS, '"bf,bfi->if"', '"bf,bfi->fi"', {"shape", "transpose"}, "U"),
    Mutant(VECTORS, "a_bar[:, None] * p.v", "a_bar[:, None]", {"factor", "shape"}, "h"),
    Mutant(VECTORS, "h_bar = a_bar[:, None] * p.v", "h_bar = a_bar[:, None] * h", {"factor", "place"}, "h"),
    Mutant(VECTORS, "sigmoid(h @ p.v + p.c) - t", "t - sigmoid(h @ p.v + p.c)", {"sign"}, "a"),
    Mutant(VECTORS, "one_hot(m, s", "one_hot(s.argmin(1), s", {"tie", "place"}, "s"),
    Mutant(VECTORS, "C.sum(0)", "C.sum(1)", {"shape"}, "b"),
    Mutant(VECTORS, "fold(s_bar @ p.U.T, w)", "fold(jnp.roll(s_bar, 1, axis=1) @ p.U.T, w)", {"shift"}, "w"),
    Mutant(
        VECTORS,
        "fold(s_bar @ p.U.T, w)",
        "jnp.zeros_like(w).at[jnp.arange(B)[:, None], m].set((C[..., None] * p.U.T)[..., : w.shape[2]])",
        {"overwrite", "path"},
        "w",
    ),
    Mutant(
        TOKENS,
        "win = one_hot(m, s.shape[1], axis=1, dtype=s.dtype)",
        "win = (s == s.max(1, keepdims=True)).astype(s.dtype)",
        {"tie"},
        "s",
    ),
    Mutant(TOKENS, f"{_to_words}.add(w_bar)", f"{_to_words}.set(w_bar)", {"overwrite"}, "E"),
    Mutant(TOKENS, f"{_to_words}.add(w_bar)", f"{_to_words}.add(w_bar / tokens.shape[1])", {"scale"}, "E"),
    Mutant(TOKENS, "at[tokens]", "at[jnp.roll(tokens, -1, axis=1)]", {"shift"}, "E"),
    Mutant(TOKENS, "h_bar * (1 - h**2)", "h_bar * (1 - h)", {"factor", "place"}, "s"),
    Mutant(TOKENS, "X, s_bar)", "X, win)", {"factor"}, "U"),
    Mutant(TOKENS, "b_bar = s_bar.sum((0, 1))", "b_bar = s_bar.sum(1)", {"shape", "batch"}, "b"),
    Mutant(
        TOKENS,
        "fold(s_bar @ p.U.T, w)",
        "jnp.pad((s_bar @ p.U.T)[..., : w.shape[2]], ((0, 0), (0, K - 1), (0, 0)))",
        {"path"},
        "w",
    ),
    Mutant(
        TOKENS,
        "- one_hot(k, len(p.c), dtype=s.dtype)",
        "- one_hot(k - 1, len(p.c), dtype=s.dtype)",
        {"place", "shift"},
        "z",
    ),
    Mutant(TOKENS, "h_bar = z_bar @ p.v.T", "h_bar = z_bar @ p.v.T / len(w)", {"scale", "batch"}, "h"),
]
