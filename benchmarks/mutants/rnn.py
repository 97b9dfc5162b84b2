"""Recurrent net (R1 to R6): a gradient, and line by line with a loss at the last step or at every one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import log_softmax, one_hot, softmax

from benchmarks.mutants.core import Derivation, Mutant, Subject, draw, sizes, weights
from jaxnets import check


class Params(NamedTuple):
    U: jax.Array  # [D, H] from input to state
    W: jax.Array  # [H, H] from state to state
    b: jax.Array  # [H]
    V: jax.Array  # [H, C] from state to head
    c: jax.Array  # [C]


def states(p, h0, x):
    """h_0 to h_T, marked step by step."""

    def step(h, x_t):
        a = check.mark("a", x_t @ p.U + h @ p.W + p.b)
        h = check.mark("h", jnp.tanh(a))
        return h, h

    _, h = lax.scan(step, h0, x)
    return jnp.concatenate([h0[None], h])


def forward_last(p, h0, x, k):
    z = check.mark("z", states(p, h0, x)[-1] @ p.V + p.c)
    return -jnp.sum(log_softmax(z) * one_hot(k, z.shape[-1], dtype=z.dtype))


def forward_every(p, h0, x, k):
    z = check.mark("z", states(p, h0, x)[1:] @ p.V + p.c)
    return -jnp.sum(log_softmax(z) * one_hot(k, z.shape[-1], dtype=z.dtype)) / k.shape[1]


def by_hand(p, h0, x, k):
    """One reverse scan; delta is the adjoint of what goes into tanh."""
    h = states(p, h0, x)
    z_bar = softmax(h[-1] @ p.V + p.c) - one_hot(k, len(p.c), dtype=h.dtype)
    T = len(x)

    def step(h_bar, row):
        _, h_t = row
        delta = h_bar * (1 - h_t**2)
        return delta @ p.W.T, delta

    h0_bar, delta = lax.scan(step, z_bar @ p.V.T, (jnp.arange(T), h[1:]), reverse=True)
    return Params(
        U=jnp.einsum("tbi,tbj->ij", x, delta),
        W=jnp.einsum("tbi,tbj->ij", h[:-1], delta),
        b=delta.sum((0, 1)),
        V=h[-1].T @ z_bar,
        c=z_bar.sum(0),
    ), h0_bar


def backward_last(p, h0, x, k):
    h = states(p, h0, x)
    T = len(x)
    z_bar = softmax(h[-1] @ p.V + p.c) - one_hot(k, len(p.c), dtype=h.dtype)  # (H6)
    V_bar, c_bar = h[-1].T @ z_bar, z_bar.sum(0)  # (H7)
    h_bar = [z_bar @ p.V.T]
    a_bar = []
    for t in range(T, 0, -1):
        a_bar.append(h_bar[-1] * (1 - h[t] ** 2))  # (R3)
        h_bar.append(a_bar[-1] @ p.W.T)
    h0_bar = h_bar.pop()  # (R5)
    h_bar, a_bar = jnp.stack(h_bar[::-1]), jnp.stack(a_bar[::-1])
    W_bar = jnp.einsum("tbi,tbj->ij", h[:-1], a_bar)  # (R4)
    U_bar = jnp.einsum("tbi,tbj->ij", x, a_bar)
    b_bar = a_bar.sum((0, 1))
    x_bar = a_bar @ p.U.T
    lines = {"z": z_bar, "h": h_bar, "a": a_bar, "V": V_bar, "c": c_bar, "x": x_bar}
    return {**lines, "W": W_bar, "U": U_bar, "b": b_bar, "h0": h0_bar}


def backward_every(p, h0, x, k):
    h = states(p, h0, x)
    T, B = x.shape[:2]
    z_bar = (softmax(h[1:] @ p.V + p.c) - one_hot(k, len(p.c), dtype=h.dtype)) / B  # (H6)
    V_bar = jnp.einsum("tbi,tbj->ij", h[1:], z_bar)  # (H7)
    c_bar = z_bar.sum((0, 1))
    g = z_bar @ p.V.T

    def step(carried, row):
        _, g_t, h_t = row
        h_bar = g_t + carried
        a_bar = h_bar * (1 - h_t**2)  # (R3)
        return a_bar @ p.W.T, (h_bar, a_bar)

    steps = jnp.arange(1, T + 1)
    h0_bar, (h_bar, a_bar) = lax.scan(step, jnp.zeros_like(h0), (steps, g, h[1:]), reverse=True)
    W_bar = jnp.einsum("tbi,tbj->ij", h[:-1], a_bar)  # (R4)
    U_bar = jnp.einsum("tbi,tbj->ij", x, a_bar)
    b_bar = a_bar.sum((0, 1))
    lines = {"z": z_bar, "h": h_bar, "a": a_bar, "V": V_bar, "c": c_bar}
    return {**lines, "W": W_bar, "U": U_bar, "b": b_bar, "h0": h0_bar}


def _args(rng, dtype, size):
    B, T, D, H, C = sizes(size, 4, 5, 8, 7, 3)
    p = Params(
        U=weights(rng, dtype, D, H),
        W=weights(rng, dtype, H, H),
        b=draw(rng, dtype, H, scale=0.3),
        V=weights(rng, dtype, H, C),
        c=draw(rng, dtype, C, scale=0.3),
    )
    return p, draw(rng, dtype, B, H, scale=0.5), draw(rng, dtype, T, B, D), jnp.asarray(rng.integers(0, C, (T, B)))


def args_last(rng, dtype, size="small"):
    p, h0, x, k = _args(rng, dtype, size)
    return p, h0, x, k[-1]


def args_every(rng, dtype, size="small"):
    return _args(rng, dtype, size)


RNN = Subject("rnn", forward_last, by_hand, args_last, argnums=(0, 1))
LAST = Derivation("rnn, last step", forward_last, backward_last, args_last)
EVERY = Derivation("rnn, every step", forward_every, backward_every, args_every)
SUBJECTS = [RNN]
DERIVATIONS = [LAST, EVERY]
MUTANTS = [
    Mutant(RNN, "delta @ p.W.T, delta", "delta @ p.W, delta", {"transpose"}),
    Mutant(RNN, "delta @ p.W.T, delta", "h_bar @ p.W.T, delta", {"factor"}),
    Mutant(RNN, "(1 - h_t**2)", "(1 - h_t)", {"factor", "place"}),
    Mutant(RNN, "(1 - h_t**2)", "(1 + h_t**2)", {"factor", "sign"}),
    Mutant(RNN, "* (1 - h_t**2)", "", {"factor"}),
    Mutant(RNN, "delta @ p.W.T, delta", "((row[0] % 2 != 0) | (row[0] == 0)) * delta @ p.W.T, delta", {"truncation"}),
    Mutant(RNN, "delta @ p.W.T, delta", "(row[0] > T - 3) * delta @ p.W.T, delta", {"truncation"}),
    Mutant(RNN, "delta @ p.W.T, delta", "0 * delta @ p.W.T, delta", {"truncation", "path"}),
    Mutant(RNN, "h[:-1], delta", "h[1:], delta", {"shift"}),
    Mutant(RNN, '->ij", x, delta', '->ij", x[:-1], delta[1:]', {"shift"}),
    Mutant(RNN, "lax.scan(step, z_bar @ p.V.T", "lax.scan(step, -z_bar @ p.V.T", {"sign"}),
    Mutant(RNN, 'W=jnp.einsum("tbi,tbj->ij"', 'W=jnp.einsum("tbi,tbj->ji"', {"transpose"}),
    Mutant(RNN, 'U=jnp.einsum("tbi,tbj->ij"', 'U=jnp.einsum("tbi,tbj->ji"', {"transpose", "shape"}),
    Mutant(RNN, "z_bar.sum(0)", "z_bar.mean(0)", {"batch", "scale"}),
    Mutant(RNN, "delta.sum((0, 1))", "delta[-1].sum(0)", {"truncation", "path", "overwrite"}),
    Mutant(RNN, "V=h[-1].T @ z_bar", "V=h[-2].T @ z_bar", {"shift"}),
    Mutant(LAST, "- one_hot(k, len(p.c), dtype=h.dtype)", "", {"path"}, "z"),
    Mutant(
        LAST,
        "softmax(h[-1] @ p.V + p.c) - one_hot(k, len(p.c), dtype=h.dtype)",
        "one_hot(k, len(p.c), dtype=h.dtype) - softmax(h[-1] @ p.V + p.c)",
        {"sign"},
        "z",
    ),
    Mutant(LAST, "(1 - h[t] ** 2)", "(1 - h[t - 1] ** 2)", {"shift"}, "a"),
    Mutant(LAST, "* (1 - h[t] ** 2)", "", {"factor"}, "a"),
    Mutant(LAST, "a_bar[-1] @ p.W.T", "a_bar[-1] @ p.W", {"transpose"}, "h"),
    Mutant(LAST, "a_bar[-1] @ p.W.T", "h_bar[-1] @ p.W.T", {"factor"}, "h"),
    Mutant(LAST, "a_bar[-1] @ p.W.T", "a_bar[-1] @ p.W.T * (t > T - 2)", {"truncation"}, "h"),
    Mutant(LAST, "a_bar[-1] @ p.W.T", "a_bar[-1] @ p.W.T * (t % 2 == 0 or t == 1)", {"truncation"}, "h"),
    Mutant(LAST, "h[:-1], a_bar", "h[1:], a_bar", {"shift"}, "W"),
    Mutant(LAST, "x_bar = a_bar @ p.U.T", "x_bar = jnp.roll(a_bar, 1, axis=0) @ p.U.T", {"shift"}, "x"),
    Mutant(LAST, "a_bar.sum((0, 1))", "a_bar.sum(0).mean(0)", {"batch", "scale"}, "b"),
    Mutant(LAST, '"b": b_bar, "h0": h0_bar', '"b": b_bar, "h0": h_bar[0]', {"shift", "factor"}, "h0"),
    Mutant(LAST, "V_bar, c_bar = h[-1].T @ z_bar", "V_bar, c_bar = h[-1].T @ z_bar / 2", {"scale"}, "V"),
    Mutant(EVERY, "h_bar = g_t + carried", "h_bar = g_t", {"path", "truncation"}, "h"),
    Mutant(EVERY, "h_bar = g_t + carried", "h_bar = g_t + carried * (row[0] % 2 != 0)", {"truncation"}, "h"),
    Mutant(EVERY, "h_bar = g_t + carried", "h_bar = g_t - carried", {"sign", "path"}, "h"),
    Mutant(EVERY, "h_bar = g_t + carried", "h_bar = jnp.where(row[0] < T, carried, g_t)", {"path"}, "h"),
    Mutant(EVERY, "(steps, g, h[1:])", "(steps, g, h[:-1])", {"shift"}, "a"),
    Mutant(EVERY, "a_bar = h_bar * (1 - h_t**2)", "a_bar = h_bar * (1 - h_bar**2)", {"place"}, "a"),
    Mutant(EVERY, "a_bar @ p.W.T, (h_bar", "a_bar @ p.W, (h_bar", {"transpose"}, "h"),
    Mutant(EVERY, "dtype=h.dtype)) / B", "dtype=h.dtype))", {"scale", "batch", "factor"}, "z"),
    Mutant(EVERY, "h[1:], z_bar", "h[:-1], z_bar", {"shift"}, "V"),
    Mutant(EVERY, '->ij", x, a_bar', '->ij", x[1:], a_bar[:-1]', {"shift"}, "U"),
    Mutant(EVERY, "a_bar.sum((0, 1))", "1.01 * a_bar.sum((0, 1))", {"scale"}, "b"),
    Mutant(EVERY, "c_bar = z_bar.sum((0, 1))", "c_bar = z_bar[:, 0].sum(0)", {"batch"}, "c"),
    Mutant(EVERY, '->ij", h[:-1], a_bar)', '->ij", h[:-1], h_bar)', {"factor"}, "W"),
]
