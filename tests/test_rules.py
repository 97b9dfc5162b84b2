"""Every rule against autodiff of the reference, against the oracle, and against a derivative by differences."""

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

SEEDS = {"float64": 5, "float32": 5, "bfloat16": 3, "float16": 3}


def value_and_vjp(f):
    """Jitted: `(fixed, args, cotangent) -> (output, adjoints of args)`."""

    @jax.jit
    def both(fixed, args, bar):
        out, back = jax.vjp(lambda a: f(fixed, **a), args)
        return out, back(bar)[0]

    return both


def random_cotangent(case, seed):
    out = jax.eval_shape(lambda a: case.rule(case.fixed, **a), case.args)
    return normal_like(np.random.default_rng(seed), out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_rule(name, dtype):
    cases = [draw(name, DTYPES[dtype], seed) for seed in range(SEEDS[dtype])]
    rule, reference = value_and_vjp(cases[0].rule), value_and_vjp(cases[0].reference)
    limit = tolerance(dtype)
    for seed, case in enumerate(cases):
        bar = random_cotangent(case, seed)
        got, grads = rule(case.fixed, case.args, bar)
        assert {a.dtype for a in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}, "the dtype that went in comes back"

        out, grads_there, scales = at_oracle(case, bar, seed)
        # A half's truth is autodiff in float32 at the same numbers: in half precision autodiff rounds as well.
        plain, plain_grads = reference(*at_least_float32((case.fixed, case.args, bar)))
        assert_close(got, plain, limit)
        assert_close(grads, plain_grads, limit, scales)
        assert_close(got, out, limit)
        assert_close(grads, grads_there, limit, scales)


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


def at_least_float32(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype in (jnp.bfloat16, jnp.float16) else a, tree)


def numbers(fixed):
    """What an oracle takes: NumPy, floats as float64."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else None), fixed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_reference_keeps_dtypes(name, dtype):
    case = draw(name, DTYPES[dtype])

    def abstract(f):
        return jax.eval_shape(lambda a: f(case.fixed, **a), case.args)

    assert abstract(case.reference) == abstract(case.rule)


@pytest.mark.parametrize("name", [name for name in CASES if "truncated" not in name])
def test_rule_by_differences(name):
    """Every entry of every gradient against a five-point stencil. (A truncated gradient is none of its function's.)"""
    case = draw(name, jnp.float64)
    bar = random_cotangent(case, 1)
    _, grads = value_and_vjp(case.rule)(case.fixed, case.args, bar)
    leaves, structure = jax.tree.flatten(case.args)

    def moved(i, direction, distance):
        args = [leaf + distance * direction if j == i else leaf for j, leaf in enumerate(leaves)]
        return jnp.sum(case.rule(case.fixed, **jax.tree.unflatten(structure, args)) * bar)

    @jax.jit
    def slopes(step):
        per_leaf = []
        for i, leaf in enumerate(leaves):

            def slope(u, i=i):
                at = jax.vmap(lambda distance: moved(i, u, distance))(step * jnp.array([-2.0, -1.0, 1.0, 2.0]))
                return jnp.dot(at, jnp.array([1.0, -8.0, 8.0, -1.0])) / (12 * step)

            units = jnp.eye(leaf.size, dtype=leaf.dtype).reshape(leaf.size, *leaf.shape)
            per_leaf.append(jax.vmap(slope)(units).reshape(leaf.shape))
        return jax.tree.unflatten(structure, per_leaf)

    assert_close(grads, slopes(2e-4), NUMERIC_TOLERANCE)
