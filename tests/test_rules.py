"""Every rule against autodiff of the reference, against the oracle, and against a derivative by differences.

A rule is compiled once a dtype. What differs between seeds, and between the points of a difference, is data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import CASES, draw
from helpers import (
    DTYPES,
    NUMERIC_TOLERANCE,
    as_float64,
    assert_close,
    named_leaves,
    normal_like,
    nudged,
    tolerance,
)

F64 = jnp.float64
SEEDS = {"first": range(2), "more": range(2, 5)}
FULL, HALF = ("float64", "float32"), ("bfloat16", "float16")


def value_and_vjp(f):
    """Jitted: `(fixed, args, cotangent) -> (output, adjoints of args)`."""

    @jax.jit
    def both(fixed, args, bar):
        out, back = jax.vjp(lambda a: f(fixed, **a), args)
        return out, back(bar)[0]

    return both


def abstract(f, case):
    return jax.eval_shape(lambda a: f(case.fixed, **a), case.args)


def random_cotangent(case, seed):
    return normal_like(np.random.default_rng(seed), abstract(case.rule, case))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_rule(name, seeds):
    """Autodiff, oracle and differences are of float64 at the same numbers, whatever precision the rule is run in."""
    case = draw(name, F64)
    rule, reference = value_and_vjp(case.rule), value_and_vjp(case.reference)
    for dtype in FULL:
        for seed in SEEDS[seeds]:
            case = draw(name, DTYPES[dtype], seed)
            fixed, args, bar = case.fixed, case.args, random_cotangent(case, seed)
            got = rule(fixed, args, bar)
            out, grads, scales = at_oracle(case, bar, seed)
            agree(dtype, got, (out, grads), scales)
            agree(dtype, got, reference(*jax.tree.map(wide, (fixed, args, bar))), scales)
            assert_kept(case, got)
    if "truncated" not in name:  # a truncated gradient is none of its function's
        case = draw(name, F64, SEEDS[seeds][0])
        assert_slopes(rule, case, random_cotangent(case, SEEDS[seeds][0]))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_rule_in_half_precision(name, seeds):
    rule = value_and_vjp(draw(name, jnp.bfloat16).rule)
    for dtype in HALF:
        for seed in SEEDS[seeds]:
            case = draw(name, DTYPES[dtype], seed)
            bar = random_cotangent(case, seed)
            got = rule(case.fixed, case.args, bar)
            out, grads, scales = at_oracle(case, bar, seed)
            agree(dtype, got, (out, grads), scales)
            assert_kept(case, got)


def agree(dtype, got, want, scales):
    assert_close(got[0], want[0], tolerance(dtype))
    assert_close(got[1], want[1], tolerance(dtype), scales)


def assert_kept(case, got):
    """The dtype that goes in comes back; of the reference, too."""
    out, grads = got
    assert jax.tree.map(lambda g: g.dtype, grads) == jax.tree.map(lambda a: a.dtype, case.args)
    assert jax.tree.map(lambda o: jax.ShapeDtypeStruct(o.shape, o.dtype), out) == abstract(case.reference, case)


def at_oracle(case, bar, seed):
    """Output, adjoints, and by what an adjoint's error is measured where its terms cancel: no program is nearer to the
    truth than its inputs are, so that what a rounding of each of them does counts for an eighth of the table's room;
    but for no more than four times the adjoint, since a tie may go the other way."""
    fixed, rng, little = numbers(case.fixed), np.random.default_rng(seed), 1e-9
    args, bar = as_float64(case.args), as_float64(bar)
    out, backward = case.oracle(fixed, **args)
    _, backward_beside = case.oracle(fixed, **nudged(rng, args, little))
    grads, scales = backward(bar), {}
    beside = named_leaves(backward_beside(nudged(rng, bar, little)))
    for name, g in named_leaves(grads).items():
        moved = np.max(np.abs(beside[name] - g), initial=0) / little
        scales[name] = min(moved / 8, 4 * np.max(np.abs(g), initial=0))
    return out, grads, scales


def wide(a):
    return np.asarray(a, np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a


def numbers(fixed):
    """What an oracle takes: NumPy, floats as float64."""
    return jax.tree.map(lambda a: np.asarray(wide(a)), fixed)


def assert_slopes(rule, case, bar):
    """Every entry of every gradient against a five-point stencil of the rule's own value."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, case.args))
    step, slopes = 2e-4, []

    def value(i, moved):
        args = jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])
        return np.sum(np.asarray(rule(case.fixed, args, bar)[0]) * np.asarray(bar))

    for i, leaf in enumerate(leaves):
        slope = np.zeros(leaf.shape)
        for at in np.ndindex(leaf.shape):
            for share, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
                moved = leaf.copy()
                moved[at] += share * step
                slope[at] += weight * value(i, moved) / (12 * step)
        slopes.append(slope)
    assert_close(rule(case.fixed, case.args, bar)[1], jax.tree.unflatten(structure, slopes), NUMERIC_TOLERANCE)
