"""Half precision: every sum of products is float32, small adjoints live, and nothing more is kept than is said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import CASES, draw
from helpers import as_float64, assert_close, tolerance
from jaxnets import dense, gated, heads, rnn, textconv

KEY = jax.random.key(0)
SUMS = {"dot_general", "conv_general_dilated", "reduce_sum", "scatter-add"}


def equations(jaxpr):
    """All equations of a program, those of its loops and branches too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "jaxpr") or hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("name", CASES)
def test_sums_are_float32(name):
    """In the program of each value and gradient no product and no sum comes out in half precision."""
    case = draw(name, jnp.bfloat16)

    def scalar(args):
        return case.rule(case.fixed, **args).astype(jnp.float32).sum()

    program = jax.make_jaxpr(jax.value_and_grad(scalar))(case.args)
    found = [eqn for eqn in equations(program.jaxpr) if eqn.primitive.name in SUMS]
    assert found
    halves = [eqn for eqn in found if eqn.outvars[0].aval.dtype == jnp.bfloat16]
    assert not halves, halves


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_word_repeated_a_thousand_times(dtype):
    """Its row of E gets a thousand adjoints; a half-precision sum would stall on the way."""
    params = textconv.init(KEY, embed=3, widths=(1,), filters=2, vocab=4, dtype=jnp.dtype(dtype))
    params = params._replace(V=jnp.full(2, 0.5, dtype))
    x, y = jnp.full((4000, 2), 3), jnp.zeros(4000)
    grad = jax.jit(jax.grad(lambda p: textconv.loss(p, x, y, reduction="sum") / 1000))
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    assert_close(grad(params), grad(wide), tolerance(dtype))


def test_small_adjoints_in_float16():
    """A mean over 2¹⁷ steps: each step's adjoint is far below what float16 holds, their sum is not."""
    rng = np.random.default_rng(0)
    params = rnn.init(KEY, inputs=1, hidden=2, outputs=2, dtype=jnp.float16)
    x = jnp.asarray(rng.normal(size=(256, 512, 1))).astype(jnp.float16)
    y = (x[:, :, 0] > 0).astype(jnp.int32)
    got = jax.jit(jax.grad(rnn.loss))(params, x, y)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), (params, x))
    assert_close(got, jax.jit(jax.grad(rnn.loss))(*wide, y), tolerance(jnp.float16))


def shapes(f, *args):
    return [(a.shape, a.dtype.name) for a in jax.tree.leaves(jax.eval_shape(f, *args)[1])]


def test_what_is_kept():
    """The residuals of each rule: inputs, there anyway, and the few arrays named here. (Recurrent: test_rnn.)"""

    def f(*shape):
        return jnp.zeros(shape, jnp.bfloat16)

    half, wide = "bfloat16", "float32"
    assert shapes(heads._affine_fwd, f(5, 3), f(3, 4), f(4)) == [((5, 3), half), ((3, 4), half), ((4,), half)]
    a, k = jnp.zeros(5, jnp.float32), jnp.zeros(5, jnp.int32)
    assert shapes(heads._logistic_fwd, a, a) == [((5,), wide), ((5,), wide)]
    z = jnp.zeros((5, 4), jnp.float32)
    assert shapes(heads._softmax_fwd, z, k) == [((5, 4), wide), ((5,), "int32"), ((5,), "bool")]
    gated_inputs = (f(5, 2), f(5, 3), f(2, 4), f(3, 4), f(4), f(2), f())
    for fold, kept in ((False, [((5, 4), half)] * 2), (True, [((2, 3), wide)])):
        found = shapes(partial(gated._logit_fwd, fold), *gated_inputs)
        assert found == [(p.shape, half) for p in gated_inputs] + kept
    W, b = (f(3, 4), f(4, 6), f(6, 2)), (f(4), f(6), f(2))
    entered = [((5, 3), half), ((5, 4), half), ((5, 6), half)]
    assert shapes(dense._layers_fwd, f(5, 3), W, b) == entered + [(p.shape, half) for p in (*W, *b)]
    w, U, b = f(5, 9, 3), (f(2, 3, 4), f(4, 3, 6)), (f(4), f(6))
    winners, features = [((5, 4), "int32"), ((5, 6), "int32")], [((5, 10), wide)]
    kept = shapes(lambda w, *args: textconv._features_fwd(w, None, *args, None), w, U, b)
    assert kept == [(p.shape, half) for p in (w, *U, *b)] + winners + features
    tokens, E = jnp.zeros((5, 9), jnp.int32), f(7, 3)
    kept = shapes(lambda *args: textconv._features_fwd(*args, None), tokens, E, U, b)
    assert kept == [((5, 9), "int32")] + [(p.shape, half) for p in (E, *U, *b)] + winners + features


def test_gradients_of_targets_and_weights():
    """They are inputs like others: soft targets and numeric weights have gradients in every net's loss."""
    rng = np.random.default_rng(0)

    def f(*shape):
        return jnp.asarray(rng.normal(size=shape))

    t, weights = jnp.asarray(rng.uniform(size=5)), jnp.asarray(rng.uniform(size=5))
    text = textconv.init(KEY, embed=3, filters=4, dtype=jnp.float64)
    cell = rnn.init(KEY, inputs=3, hidden=4, outputs=1, dtype=jnp.float64)
    nets = [
        (textconv, text, (f(5, 6, 3),)),
        (rnn, cell, (f(5, 6, 3),)),
        (gated, gated.init(KEY, x=3, eta=2, hidden=4, dtype=jnp.float64), (f(5, 3), f(5, 2))),
        (dense, dense.init(KEY, sizes=(3, 4, 1), dtype=jnp.float64), (f(5, 3),)),
    ]
    for module, params, inputs in nets:
        got = jax.grad(lambda t, w, m=module, p=params, i=inputs: m.loss(p, *i, t, weights=w), (0, 1))(t, weights)
        a = as_float64(module.forward(params, *inputs))
        losses, total = np.logaddexp(0, a) - t * a, weights.sum()
        mean = (losses * weights).sum() / total
        assert_close(got, (-a * weights / total, (losses - mean) / total), tolerance(jnp.float64))
