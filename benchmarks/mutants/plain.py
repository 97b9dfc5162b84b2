"""Functions and gradients in NumPy alone, where no autodiff can help. NumPy has no bfloat16 of its own."""

import numpy as np

from benchmarks.mutants.core import Mutant, Subject, sizes


def likelihood(v, c, x, t):
    """Log-likelihood of a logistic regression, to be maximised: signs are those of the gradient uphill."""
    a = x @ v + c
    return np.sum(t * a - np.logaddexp(0, a))


def likelihood_by_hand(v, c, x, t):
    y = (1 + np.tanh((x @ v + c) / 2)) / 2  # exp would overflow in float16
    e = t - y
    return x.T @ e, e.sum()


def likelihood_args(rng, dtype, size="small"):
    B, D = sizes(size, 6, 4)
    x = rng.normal(size=(B, D)).astype(dtype)
    v, c = rng.normal(size=D) * D**-0.5, np.asarray(0.2)
    return v.astype(dtype), c.astype(dtype), x, rng.integers(0, 2, B).astype(dtype)


def mlp(p, x, y):
    h = np.tanh(x @ p["W1"] + p["b1"])
    return np.mean(np.sum((h @ p["W2"] + p["b2"] - y) ** 2, axis=1))


def mlp_by_hand(p, x, y):
    h = np.tanh(x @ p["W1"] + p["b1"])
    z_bar = 2 * (h @ p["W2"] + p["b2"] - y) / len(x)
    h_bar = z_bar @ p["W2"].T
    s_bar = h_bar * (1 - h**2)
    return {"W1": x.T @ s_bar, "b1": s_bar.sum(0), "W2": h.T @ z_bar, "b2": z_bar.sum(0)}


def mlp_args(rng, dtype, size="small"):
    B, D, H, C = sizes(size, 5, 3, 6, 2)
    shapes = {"W1": (D, H), "b1": (H,), "W2": (H, C), "b2": (C,)}
    p = {name: (rng.normal(size=s) * s[0] ** -0.5).astype(dtype) for name, s in shapes.items()}
    return p, rng.normal(size=(B, D)).astype(dtype), rng.normal(size=(B, C)).astype(dtype)


def pairs(E, C, words, contexts, t):
    """Word vectors from pairs that were seen (t = 1) or made up (t = 0)."""
    a = np.sum(E[words] * C[contexts], axis=1)
    return np.sum(np.logaddexp(0, a) - t * a)


def pairs_by_hand(E, C, words, contexts, t):
    a = np.sum(E[words] * C[contexts], axis=1)
    a_bar = (1 + np.tanh(a / 2)) / 2 - t
    E_bar, C_bar = np.zeros_like(E), np.zeros_like(C)
    np.add.at(E_bar, words, a_bar[:, None] * C[contexts])
    for n, context in enumerate(contexts):
        C_bar[context] += a_bar[n] * E[words[n]]
    return E_bar, C_bar


def pairs_args(rng, dtype, size="small"):
    B, V, N, S = sizes(size, 8, 5, 6, 3)
    words, contexts = rng.integers(0, V, B), rng.integers(0, N, B)
    words[3], contexts[4] = words[0], contexts[1]
    E, C = rng.normal(size=(V, S)).astype(dtype), rng.normal(size=(N, S)).astype(dtype)
    return E, C, words, contexts, rng.integers(0, 2, B).astype(dtype)


def recurrent(p, h, x, y):
    for x_t in x:
        h = np.tanh(x_t @ p["U"] + h @ p["W"])
    return np.sum((h - y) ** 2) / 2


def recurrent_by_hand(p, h0, x, y):
    U, W = p["U"], p["W"]
    h = [h0]
    for x_t in x:
        h.append(np.tanh(x_t @ U + h[-1] @ W))
    U_bar, W_bar = np.zeros_like(U), np.zeros_like(W)
    h_bar = h[-1] - y
    for t in range(len(x), 0, -1):
        a_bar = h_bar * (1 - h[t] ** 2)
        U_bar += x[t - 1].T @ a_bar
        W_bar += h[t - 1].T @ a_bar
        h_bar = a_bar @ W.T
    return {"U": U_bar, "W": W_bar}


def recurrent_args(rng, dtype, size="small"):
    B, T, D, H = sizes(size, 3, 6, 4, 5)
    p = {"U": (rng.normal(size=(D, H)) * D**-0.5).astype(dtype), "W": (rng.normal(size=(H, H)) * H**-0.5).astype(dtype)}
    x, h0, y = rng.normal(size=(T, B, D)), rng.normal(size=(B, H)) / 2, rng.normal(size=(B, H))
    return p, h0.astype(dtype), x.astype(dtype), y.astype(dtype)


LIKELIHOOD = Subject("log-likelihood", likelihood, likelihood_by_hand, likelihood_args, argnums=(0, 1))
MLP = Subject("numpy mlp", mlp, mlp_by_hand, mlp_args)
PAIRS = Subject("word pairs", pairs, pairs_by_hand, pairs_args, argnums=(0, 1))
RECURRENT = Subject("numpy rnn", recurrent, recurrent_by_hand, recurrent_args)
SUBJECTS = [LIKELIHOOD, MLP, PAIRS, RECURRENT]
_sum = "W_bar += h[t - 1].T @ a_bar"
MUTANTS = [
    Mutant(LIKELIHOOD, "e = t - y", "e = y - t", {"sign"}),
    Mutant(LIKELIHOOD, "e = t - y", "e = (t - y) * y * (1 - y)", {"factor"}),
    Mutant(LIKELIHOOD, "e = t - y", "e = t", {"path"}),
    Mutant(LIKELIHOOD, "x.T @ e, e.sum()", "x.T @ e / len(x), e.mean()", {"scale", "batch"}),
    Mutant(LIKELIHOOD, "e.sum()", "e", {"shape", "batch"}),
    Mutant(LIKELIHOOD, "e = t - y", "e = t - y + 1e-3", {"constant"}),
    Mutant(MLP, "z_bar = 2 *", "z_bar =", {"scale"}),
    Mutant(MLP, " / len(x)", "", {"scale", "batch"}),
    Mutant(MLP, "(1 - h**2)", '(1 - np.tanh(p["W1"]).sum() ** 2)', {"place", "factor", "scale"}),
    Mutant(MLP, "(1 - h**2)", "h * (1 - h)", {"factor", "place"}),
    Mutant(MLP, "(1 - h**2)", "(1 - h**2) ** 2", {"factor"}),
    Mutant(MLP, "h.T @ z_bar", "np.tanh(h).T @ z_bar", {"place"}),
    Mutant(MLP, "h.T @ z_bar", '(x @ p["W1"] + p["b1"]).T @ z_bar', {"place"}),
    Mutant(MLP, '"b1": s_bar.sum(0)', '"b1": h_bar.sum(0)', {"factor"}),
    Mutant(MLP, '"W1": x.T @ s_bar', '"W1": s_bar.T @ x', {"shape", "transpose"}),
    Mutant(MLP, ', "b2": z_bar.sum(0)', "", {"shape"}),
    Mutant(MLP, "z_bar.sum(0)", "z_bar.sum(0, keepdims=True)", {"shape"}),
    Mutant(
        PAIRS,
        "np.add.at(E_bar, words, a_bar[:, None] * C[contexts])",
        "E_bar[words] += a_bar[:, None] * C[contexts]",
        {"overwrite"},
    ),
    Mutant(PAIRS, "C_bar[context] += ", "C_bar[context] = ", {"overwrite"}),
    Mutant(PAIRS, "E[words[n]]", "E[words[n - 1]]", {"shift"}),
    Mutant(PAIRS, " - t\n", "\n", {"path"}),
    Mutant(PAIRS, "a_bar[n] * E", "E", {"factor"}),
    Mutant(
        PAIRS,
        "np.add.at(E_bar, words, a_bar[:, None] * C[contexts])",
        "np.add.at(E_bar, words, a_bar[:, None] * C[words])",
        {"place", "shift"},
    ),
    Mutant(RECURRENT, "W_bar +=", "W_bar =", {"overwrite", "path"}),
    Mutant(RECURRENT, "U_bar +=", "U_bar =", {"overwrite", "path"}),
    Mutant(RECURRENT, _sum, "W_bar += h[t].T @ a_bar", {"shift"}),
    Mutant(RECURRENT, "x[t - 1].T", "x[t - 2].T", {"shift"}),
    Mutant(RECURRENT, "h_bar = a_bar @ W.T", "h_bar = a_bar @ W", {"transpose"}),
    Mutant(RECURRENT, "range(len(x), 0, -1)", "range(len(x), len(x) - 2, -1)", {"truncation"}),
    Mutant(RECURRENT, "range(len(x), 0, -1)", "range(len(x), 1, -1)", {"truncation", "path"}),
    Mutant(RECURRENT, "a_bar @ W.T", "a_bar @ W.T if (t - 1) % 3 else 0 * h_bar", {"truncation"}),
    Mutant(RECURRENT, "(1 - h[t] ** 2)", "(1 - h[t - 1] ** 2)", {"shift"}),
    Mutant(RECURRENT, "(1 - h[t] ** 2)", "(1 - (x[t - 1] @ U + h[t - 1] @ W) ** 2)", {"place"}),
]
