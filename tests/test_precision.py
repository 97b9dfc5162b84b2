"""Half precision: every sum of products is float32, small adjoints live, and nothing more is kept than is said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import CASES, draw
from helpers import DTYPES, as_float64, assert_close, tolerance
from jaxnets import dense, gated, heads, rnn, textconv

KEY = jax.random.key(0)
SUMS = {"dot_general", "conv_general_dilated", "reduce_sum", "scatter-add"}


def drawn(rng, shape, dtype):
    """By NumPy: JAX would compile a program to draw, and one to round."""
    return rng.normal(size=shape).astype(DTYPES[dtype])


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
    rng = np.random.default_rng(0)
    E, U = (drawn(rng, shape, dtype) for shape in ((4, 3), (1, 3, 2)))
    zeros = np.zeros(2, DTYPES[dtype])
    params = textconv.Params(E, (U,), (zeros,), np.full(2, 0.5, DTYPES[dtype]), zeros[0])
    x, y = np.full((4000, 2), 3), np.zeros(4000)

    @jax.jit
    def grads(*nets):
        return [jax.grad(lambda p: textconv.loss(p, x, y, reduction="sum") / 1000)(params) for params in nets]

    assert_close(*grads(params, as_float64(params)), tolerance(dtype))


def test_small_adjoints_in_float16():
    """A mean over 2¹⁷ steps: each step's adjoint is far below what float16 holds, their sum is not."""
    params = jax.jit(lambda key: rnn.init(key, inputs=1, hidden=2, outputs=2, dtype=jnp.float16))(KEY)
    x = drawn(np.random.default_rng(0), (256, 512, 1), "float16")
    y = (x[:, :, 0] > 0).astype(np.int32)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float32), (params, x))
    got, want = jax.jit(lambda *nets: [jax.grad(rnn.loss)(*net, y) for net in nets])((params, x), wide)
    assert_close(got, want, tolerance(jnp.float16))


def shapes(f, *args):
    return [(a.shape, a.dtype.name) for a in jax.tree.leaves(jax.eval_shape(f, *args)[1])]


def test_what_is_kept():
    """The residuals of each rule: inputs, there anyway, and the few arrays named here. (Recurrent: test_rnn.)"""

    def f(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    half, wide = "bfloat16", "float32"
    assert shapes(heads._affine_fwd, f(5, 3), f(3, 4), f(4)) == [((5, 3), half), ((3, 4), half), ((4,), half)]
    a, k = f(5, dtype=jnp.float32), f(5, dtype=jnp.int32)
    assert shapes(heads._logistic_fwd, a, a) == [((5,), wide), ((5,), wide)]
    z = f(5, 4, dtype=jnp.float32)
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
    tokens, E = f(5, 9, dtype=jnp.int32), f(7, 3)
    kept = shapes(lambda *args: textconv._features_fwd(*args, None), tokens, E, U, b)
    assert kept == [((5, 9), "int32")] + [(p.shape, half) for p in (E, *U, *b)] + winners + features


def test_gradients_of_targets_and_weights():
    """They are inputs like others: soft targets and numeric weights have gradients in every net's loss."""
    rng = np.random.default_rng(0)
    t, weights = rng.uniform(size=5), rng.uniform(size=5)
    sizes = {
        textconv: ({"embed": 3, "filters": 4}, [(5, 6, 3)]),
        rnn: ({"inputs": 3, "hidden": 4, "outputs": 1}, [(5, 6, 3)]),
        gated: ({"x": 3, "eta": 2, "hidden": 4}, [(5, 3), (5, 2)]),
        dense: ({"sizes": (3, 4, 1)}, [(5, 3)]),
    }
    for module, (of_net, of_inputs) in sizes.items():
        params = jax.eval_shape(partial(module.init, **of_net), KEY)
        params = jax.tree.map(lambda a: rng.normal(size=a.shape) / 2, params)
        inputs = [rng.normal(size=shape) for shape in of_inputs]

        @jax.jit
        def both(params, inputs, t, weights, module=module):
            got = jax.grad(lambda t, w: module.loss(params, *inputs, t, weights=w), (0, 1))(t, weights)
            return got, module.forward(params, *inputs)

        got, a = jax.tree.map(np.asarray, both(params, inputs, t, weights))
        losses, total = np.logaddexp(0, a) - t * a, weights.sum()
        mean = (losses * weights).sum() / total
        want = -a * weights / total, (losses - mean) / total
        assert_close({module.__name__: got}, {module.__name__: want}, tolerance(jnp.float64))
