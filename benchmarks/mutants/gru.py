"""Gated recurrent unit, squared loss of the last state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from benchmarks.mutants.core import Mutant, Subject, draw, sizes, weights


class Params(NamedTuple):
    Wz: jax.Array  # [D, H] gate between old and new state
    Uz: jax.Array  # [H, H]
    bz: jax.Array  # [H]
    Wr: jax.Array  # [D, H] gate that forgets
    Ur: jax.Array  # [H, H]
    br: jax.Array  # [H]
    Wn: jax.Array  # [D, H] new state
    Un: jax.Array  # [H, H]
    bn: jax.Array  # [H]


def f(p, x, y):
    def step(h, x_t):
        z = sigmoid(x_t @ p.Wz + h @ p.Uz + p.bz)
        r = sigmoid(x_t @ p.Wr + h @ p.Ur + p.br)
        n = jnp.tanh(x_t @ p.Wn + (r * h) @ p.Un + p.bn)
        return (1 - z) * n + z * h, None

    h, _ = lax.scan(step, jnp.zeros_like(y), x)
    return jnp.sum((h - y) ** 2) / (2 * len(y))


def by_hand(p, x, y):
    """Backward through time; z_bar, r_bar and n_bar are adjoints of what goes into the three nonlinearities."""
    T, B = x.shape[:2]
    states, cells = [jnp.zeros_like(y)], []
    for t in range(T):
        h = states[-1]
        z = sigmoid(x[t] @ p.Wz + h @ p.Uz + p.bz)
        r = sigmoid(x[t] @ p.Wr + h @ p.Ur + p.br)
        n = jnp.tanh(x[t] @ p.Wn + (r * h) @ p.Un + p.bn)
        cells.append((z, r, n))
        states.append((1 - z) * n + z * h)

    h_bar = (states[-1] - y) / B
    rows = []
    for t in reversed(range(T)):
        h_tm1, (z, r, n) = states[t], cells[t]
        n_bar = h_bar * (1 - z) * (1 - n**2)
        z_bar = h_bar * (h_tm1 - n) * z * (1 - z)
        q_bar = n_bar @ p.Un.T  # of the product r * h_tm1
        r_bar = q_bar * h_tm1 * r * (1 - r)
        rows.append((z_bar, r_bar, n_bar))
        h_bar = h_bar * z + q_bar * r + z_bar @ p.Uz.T + r_bar @ p.Ur.T

    h = jnp.stack(states)
    z_bar, r_bar, n_bar = (jnp.stack(steps[::-1]) for steps in zip(*rows, strict=True))
    q = h[:-1] * jnp.stack([r for _, r, _ in cells])

    def outer(left, right):
        return jnp.einsum("tbi,tbj->ij", left, right)

    return Params(
        Wz=outer(x, z_bar),
        Uz=outer(h[:-1], z_bar),
        bz=z_bar.sum((0, 1)),
        Wr=outer(x, r_bar),
        Ur=outer(h[:-1], r_bar),
        br=r_bar.sum((0, 1)),
        Wn=outer(x, n_bar),
        Un=outer(q, n_bar),
        bn=n_bar.sum((0, 1)),
    )


def args(rng, dtype, size="small"):
    B, T, D, H = sizes(size, 3, 5, 4, 7)
    shapes = [(D, H), (H, H), (1, H)] * 3
    p = Params(*(weights(rng, dtype, *s) if s[0] > 1 else draw(rng, dtype, H, scale=0.3) for s in shapes))
    return p, draw(rng, dtype, T, B, D), draw(rng, dtype, B, H)


GRU = Subject("gru", f, by_hand, args)
SUBJECTS = [GRU]
_carry = "+ r_bar @ p.Ur.T"
MUTANTS = [
    Mutant(GRU, "(1 - z) * (1 - n**2)", "(1 - z)", {"factor"}),
    Mutant(GRU, "(1 - n**2)", "(1 - n)", {"factor", "place"}),
    Mutant(GRU, "(h_tm1 - n)", "(n - h_tm1)", {"sign"}),
    Mutant(GRU, "q_bar * h_tm1 * r * (1 - r)", "q_bar * r * (1 - r)", {"factor"}),
    Mutant(GRU, "q_bar * h_tm1 * r * (1 - r)", "q_bar * h_tm1 * r", {"factor"}),
    Mutant(GRU, "h_bar = h_bar * z + q_bar", "h_bar = q_bar", {"path"}),
    Mutant(GRU, "+ q_bar * r +", "+", {"path"}),
    Mutant(GRU, "+ q_bar * r +", "+ q_bar +", {"factor"}),
    Mutant(GRU, " + z_bar @ p.Uz.T", "", {"path"}),
    Mutant(GRU, "z_bar @ p.Uz.T", "z_bar @ p.Uz", {"transpose"}),
    Mutant(GRU, "(states[-1] - y) / B", "(states[-1] - y)", {"scale", "batch"}),
    Mutant(GRU, "Uz=outer(h[:-1], z_bar)", "Uz=outer(h[1:], z_bar)", {"shift"}),
    Mutant(GRU, "Un=outer(q, n_bar)", "Un=outer(h[:-1], n_bar)", {"factor", "place"}),
    Mutant(GRU, "bz=z_bar.sum((0, 1))", "bz=z_bar[:, 0].sum(0)", {"batch"}),
    Mutant(GRU, "Ur=outer(h[:-1], r_bar)", "Ur=outer(r_bar, h[:-1])", {"transpose"}),
    Mutant(GRU, _carry, f"{_carry}\n        h_bar = h_bar * (t % 2 != 0)", {"truncation"}),
    Mutant(GRU, _carry, f"{_carry}\n        h_bar = h_bar * (t > T - 3)", {"truncation"}),
    Mutant(GRU, "bn=n_bar.sum((0, 1))", "bn=n_bar.sum((0, 1)) + 1e-3", {"constant"}),
]
