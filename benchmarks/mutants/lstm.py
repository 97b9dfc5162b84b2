"""Long short-term memory with a squared loss at every step: as a gradient, and line by line."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from benchmarks.mutants.core import Derivation, Mutant, Subject, draw, sizes, weights
from jaxnets import check


class Params(NamedTuple):
    W: jax.Array  # [D, 4H] from input to the gates i, f, g, o
    U: jax.Array  # [H, 4H] from state to the gates
    b: jax.Array  # [4H]


def forward(p, x, y):
    def step(carry, x_t):
        h, c = carry
        gates = check.mark("gates", x_t @ p.W + h @ p.U + p.b)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = check.mark("c", sigmoid(f) * c + sigmoid(i) * jnp.tanh(g))
        h = check.mark("h", sigmoid(o) * jnp.tanh(c))
        return (h, c), h

    start = jnp.zeros_like(y[0])
    _, h = lax.scan(step, (start, start), x)
    return jnp.sum((h - y) ** 2) / (2 * y.shape[1])


def states(p, x, y):
    """Every h_t and c_t from t = 0 on, and the four gates of each step after their nonlinearity."""

    def step(carry, x_t):
        h, c = carry
        i, f, g, o = jnp.split(x_t @ p.W + h @ p.U + p.b, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), jnp.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, i, f, g, o)

    start = jnp.zeros_like(y[:1])
    _, (h, c, i, f, g, o) = lax.scan(step, (start[0], start[0]), x)
    return jnp.concatenate([start, h]), jnp.concatenate([start, c]), i, f, g, o


def by_hand(p, x, y):
    """Backward through time; the adjoint of the state and that of the cell are carried side by side."""
    T, B = y.shape[:2]
    hs, cs, *gates = states(p, x, y)
    h_bar = c_bar = jnp.zeros_like(y[0])
    rows = []
    for t in reversed(range(T)):
        i, f, g, o = (gate[t] for gate in gates)
        h_bar = h_bar + (hs[t + 1] - y[t]) / B
        q = jnp.tanh(cs[t + 1])
        c_bar = c_bar + h_bar * o * (1 - q**2)
        i_bar = c_bar * g * i * (1 - i)
        f_bar = c_bar * cs[t] * f * (1 - f)
        g_bar = c_bar * i * (1 - g**2)
        o_bar = h_bar * q * o * (1 - o)
        rows.append(jnp.concatenate([i_bar, f_bar, g_bar, o_bar], axis=-1))
        h_bar = rows[-1] @ p.U.T
        c_bar = c_bar * f
    bar = jnp.stack(rows[::-1])
    return Params(W=jnp.einsum("tbi,tbj->ij", x, bar), U=jnp.einsum("tbi,tbj->ij", hs[:-1], bar), b=bar.sum((0, 1)))


def backward(p, x, y):
    B = y.shape[1]
    hs, cs, *gates = states(p, x, y)

    def step(carry, row):
        gates_bar, c_bar, f_next = carry
        h, y_t, c, c_tm1, i, f, g, o = row
        h_bar = (h - y_t) / B + gates_bar @ p.U.T
        c_bar = c_bar * f_next + h_bar * o * (1 - jnp.tanh(c) ** 2)
        i_bar = c_bar * g * i * (1 - i)
        f_bar = c_bar * c_tm1 * f * (1 - f)
        g_bar = c_bar * i * (1 - g**2)
        o_bar = h_bar * jnp.tanh(c) * o * (1 - o)
        gates_bar = jnp.concatenate([i_bar, f_bar, g_bar, o_bar], axis=-1)
        return (gates_bar, c_bar, f), (h_bar, c_bar, gates_bar)

    none = jnp.zeros_like(y[0])
    last = (jnp.tile(none, 4), none, none)
    rows = (hs[1:], y, cs[1:], cs[:-1], *gates)
    _, (h_bar, c_bar, gates_bar) = lax.scan(step, last, rows, reverse=True)
    W_bar = jnp.einsum("tbi,tbj->ij", x, gates_bar)
    U_bar = jnp.einsum("tbi,tbj->ij", hs[:-1], gates_bar)
    x_bar = gates_bar @ p.W.T
    b_bar = gates_bar.sum((0, 1))
    return {"h": h_bar, "c": c_bar, "gates": gates_bar, "W": W_bar, "U": U_bar, "b": b_bar, "x": x_bar}


def args(rng, dtype, size="small"):
    B, T, D, H = sizes(size, 3, 6, 4, 5)
    p = Params(weights(rng, dtype, D, 4 * H), weights(rng, dtype, H, 4 * H), draw(rng, dtype, 4 * H, scale=0.3))
    return p, draw(rng, dtype, T, B, D), draw(rng, dtype, T, B, H)


LSTM = Subject("lstm", forward, by_hand, args)
LINES = Derivation("lstm, line by line", forward, backward, args)
SUBJECTS = [LSTM]
DERIVATIONS = [LINES]
_carry = "h_bar = rows[-1] @ p.U.T"
MUTANTS = [
    Mutant(LSTM, "o * (1 - q**2)", "o * (1 - cs[t + 1] ** 2)", {"place"}),
    Mutant(LSTM, "o * (1 - q**2)", "o", {"factor"}),
    Mutant(LSTM, "h_bar * o * (1 - q**2)", "h_bar * (1 - q**2)", {"factor"}),
    Mutant(LSTM, "c_bar = c_bar + h_bar * o", "c_bar = h_bar * o", {"path"}),
    Mutant(LSTM, "c_bar = c_bar * f", "c_bar = c_bar * i", {"factor", "place"}),
    Mutant(LSTM, "c_bar = c_bar * f", "c_bar = c_bar", {"factor"}),
    Mutant(LSTM, "c_bar * cs[t] * f", "c_bar * cs[t + 1] * f", {"shift"}),
    Mutant(LSTM, "h_bar = h_bar + (hs", "h_bar = (hs", {"path", "truncation"}),
    Mutant(LSTM, "(hs[t + 1] - y[t])", "(hs[t] - y[t])", {"shift"}),
    Mutant(LSTM, "hs[:-1], bar", "hs[1:], bar", {"shift"}),
    Mutant(LSTM, "(1 - g**2)", "(1 - g)", {"factor", "place"}),
    Mutant(LSTM, "q * o * (1 - o)", "q * o", {"factor"}),
    Mutant(LSTM, "[i_bar, f_bar, g_bar, o_bar]", "[f_bar, i_bar, g_bar, o_bar]", {"transpose", "place"}),
    Mutant(LSTM, "/ B", "/ (B * T)", {"scale"}),
    Mutant(LSTM, "b=bar.sum((0, 1))", "b=bar.sum(0)", {"shape", "batch"}),
    Mutant(LSTM, _carry, f"{_carry} * (t > T - 4)", {"truncation"}),
    Mutant(
        LSTM,
        "        c_bar = c_bar * f",
        "        c_bar, h_bar = c_bar * f * (t % 3 != 0), h_bar * (t % 3 != 0)",
        {"truncation"},
    ),
    Mutant(LSTM, "b=bar.sum((0, 1))", "b=1.01 * bar.sum((0, 1))", {"scale"}),
    Mutant(LINES, "c_bar = c_bar * f_next + h_bar", "c_bar = h_bar", {"path"}, "c"),
    Mutant(LINES, "c_bar * f_next", "c_bar", {"factor"}, "c"),
    Mutant(LINES, "c_bar * f_next", "c_bar * f", {"shift"}, "c"),
    Mutant(LINES, "o * (1 - jnp.tanh(c) ** 2)", "o * (1 - c**2)", {"place"}, "c"),
    Mutant(LINES, "h_bar * o * (1", "h_bar * (1", {"factor"}, "c"),
    Mutant(LINES, "/ B + gates_bar @ p.U.T", "/ B", {"path", "truncation"}, "h"),
    Mutant(LINES, "(h - y_t) / B", "(h - y_t)", {"scale", "batch", "factor"}, "h"),
    Mutant(LINES, "c_bar * c_tm1 * f", "c_bar * c * f", {"shift"}, "gates"),
    Mutant(LINES, "h_bar * jnp.tanh(c) * o", "h_bar * c * o", {"place"}, "gates"),
    Mutant(LINES, "i * (1 - i)", "(1 - i)", {"factor"}, "gates"),
    Mutant(LINES, "hs[:-1], gates_bar", "hs[1:], gates_bar", {"shift"}, "U"),
    Mutant(LINES, "x_bar = gates_bar @ p.W.T", "x_bar = -gates_bar @ p.W.T", {"sign"}, "x"),
    Mutant(LINES, "gates_bar.sum((0, 1))", "gates_bar[0].sum(0)", {"path", "overwrite", "truncation"}, "b"),
]
