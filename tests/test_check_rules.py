"""`check.rules`: rules are found wherever they are met, and what JAX passes in silence is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnets import check, dense, gated, heads, rnn, textconv

pytestmark = pytest.mark.usefixtures("ordinary_settings")


def ruled(forward, fwd, bwd):
    """A `custom_vjp` function of a forward function and its rule."""
    f = jax.custom_vjp(forward)
    f.defvjp(fwd, bwd)
    return f


def square(by=2.0):
    def square(x):
        return x * x

    return ruled(square, lambda x: (x * x, x), lambda x, bar: (by * x * bar,))


@jax.custom_jvp
def cubed(x):
    return x**3


@cubed.defjvp
def cubed_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return cubed(x), 2 * x * x * dx  # 3 it should be


X = jnp.array([1.0, 2.0, 0.5])

PLACES = {
    "plain": lambda f: f(X),
    "jit": lambda f: jax.jit(f)(X),
    "vmap": lambda f: jax.vmap(f)(X),
    "scan": lambda f: lax.scan(lambda h, _: (f(h), None), X, length=4)[0],
    "while": lambda f: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1])), (0, X))[1],
    "cond": lambda f: lax.cond(X[0] > 0, f, lambda x: x, X),
    "remat": lambda f: jax.checkpoint(f)(X),
    "scan in jit in remat": lambda f: jax.checkpoint(
        jax.jit(lambda x: lax.scan(lambda h, _: (f(h), None), x, length=2)[0])
    )(X),
    "another rule": lambda f: ruled(lambda x: f(x) * 1, lambda x: (f(x), x), lambda x, bar: (2 * x * bar,))(X),
    "another rule's backward pass": lambda f: ruled(
        lambda x: x**3 / 3, lambda x: (x**3 / 3, x), lambda x, bar: (f(x) * bar,)
    )(X),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("right", [True, False])
def test_rules_are_found(place, right):
    f = square(2.0 if right else 3.0)
    report = check.rules(lambda shift: PLACES[place](f) + shift, (1.0,))
    leaf = report["square.x"]
    assert leaf.verdict == ("right" if right else "wrong")
    assert "test_check_rules.py line" in leaf.source
    assert right or "scale" in [c.kind for c in leaf.causes[:3]]


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_rules_of_one_factory_are_not_taken_for_each_other(wrong):
    """They share name, line and values; only what they close over differs."""
    ops = [square(3.0 if i == wrong else 2.0) for i in range(3)]
    assert check.rules(lambda x: sum(op(x) for op in ops), (X,)).first == "square.x"

    def factory(by):
        op = jax.custom_jvp(lambda x: x * x)
        op.defjvp(lambda primals, tangents: (op(*primals), by * primals[0] * tangents[0]))
        return op

    ops = [factory(3.0 if i == wrong else 2.0) for i in range(3)]
    assert not check.rules(lambda x: sum(op(x) for op in ops), (X,)).ok


def test_custom_jvp_rules_too():
    report = check.rules(lambda x: cubed(x).sum() + jax.nn.relu(x).sum(), (X,))
    assert report["cubed.x"].verdict == "wrong"
    assert report["relu.x"].verdict == "right"
    assert check.rules(lambda x: cubed(x).sum(), (X,), allow=["cubed"]).ok


def test_a_branch_not_taken_is_not_met():
    f = square()
    report = check.rules(lambda x: lax.cond(x[0] > 100, f, lambda x: x, x), (X,))
    assert not report.wrong
    assert not report.ok
    assert report.not_compared == [next(r for r in report.not_compared if r.startswith("square: not met"))]


def test_a_rule_that_raises_is_not_wrong():
    def bwd(x, bar):
        raise NotImplementedError("no derivative of this")

    f = ruled(lambda x: x * 2, lambda x: (x * 2, x), bwd)
    report = check.rules(lambda x: f(x).sum(), (X,))
    assert not report.wrong
    assert not report.ok
    assert "no derivative of this" in report.not_compared[0]


def test_a_function_without_rules_says_so():
    report = check.rules(lambda x: jnp.sum(x * x), (X,))
    assert not report.wrong
    assert not report.ok
    assert "no custom_vjp" in report.remarks[0]


def test_one_array_for_a_dict_is_seen():
    f = ruled(lambda d: d["a"] * d["b"] ** 2, lambda d: (d["a"] * d["b"] ** 2, d), lambda d, bar: (bar * d["b"] ** 2,))
    report = check.rules(lambda a, b: f({"a": a, "b": b}), (2.0, 3.0))
    assert report["a"].verdict == "right"
    assert report["b"].verdict == "wrong"


def test_none_for_a_gradient_is_seen():
    f = ruled(lambda x, y: x * y, lambda x, y: (x * y, y), lambda y, bar: (bar * y, None))
    report = check.rules(f, (2.0, 3.0))
    assert report["x"].verdict == "right"
    assert report["y"].verdict == "wrong"
    assert report["y"].causes[0].kind == "path"


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int32])
def test_another_dtype_is_seen(dtype):
    f = ruled(lambda x: x * 2, lambda x: (x * 2, None), lambda _, bar: ((2 * bar).astype(dtype),))
    report = check.rules(lambda x: f(x).sum(), (X.astype(jnp.float32),))
    assert report["x"].verdict == "wrong"
    assert any(c.kind == "shape" for c in report["x"].causes)


def test_another_value_is_seen():
    f = ruled(lambda x: x * 2, lambda x: (x * 3, None), lambda _, bar: (2 * bar,))
    report = check.rules(lambda x: f(x).sum(), (X,))
    assert report["x"].verdict == "right"
    assert "value" in report.first
    assert "value_and_grad" in report.wrong[0].causes[0].detail


def test_a_rule_that_ignores_its_cotangent_is_seen():
    f = ruled(lambda x: jnp.sum(x**2), lambda x: (jnp.sum(x**2), x), lambda x, bar: (2 * x,))
    check.gradient(f, lambda x: 2 * x, (X,)).raise_if_wrong()  # for a scalar it is right
    report = check.rules(f, (X,))
    assert "cotangent is ignored" in report["x"].causes[0].detail


def test_a_rule_that_is_not_linear_is_seen():
    f = ruled(lambda x: x * 2, lambda x: (x * 2, None), lambda _, bar: (2 * bar + 0.1 * bar**2,))
    report = check.rules(lambda x: f(x).sum(), (X,))
    assert any("not linear" in c.detail for c in report["x"].causes)


def layer_norm(eps, offset=0.0):
    def forward(x, gamma):
        centred = x - x.mean()
        return gamma * centred / jnp.sqrt((centred**2).mean() + eps)

    def bwd(saved, bar):
        x, gamma = saved
        x_hat = forward(x, 1.0)
        bar_hat = bar * (gamma + offset)
        spread = jnp.sqrt(((x - x.mean()) ** 2).mean() + eps)
        return (bar_hat - bar_hat.mean() - x_hat * (bar_hat * x_hat).mean()) / spread, (bar * x_hat).sum()

    return ruled(forward, lambda x, gamma: (forward(x, gamma), (x, gamma)), bwd)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("right", [True, False])
def test_numbers_from_the_usual_generators_hide_nothing(right, seed):
    """A normalisation sends a cotangent that is its own `x` to nothing, in which every mistake is lost."""
    x = np.random.default_rng(seed).normal(size=8)
    f = layer_norm(1e-12, 0.0 if right else 1.0)
    report = check.rules(lambda x, gamma: f(x, gamma).sum(), (x, 0.7))
    assert [leaf.verdict for leaf in report] == ["right" if right else "wrong", "right"], report


@pytest.mark.parametrize("right", [True, False])
def test_complex_rules_are_judged(right):
    """By JAX's convention for the conjugate, in both parts of each operand; beside a right real rule, and alone."""
    product = ruled(
        lambda z, w: z * w, lambda z, w: (z * w, (z, w)), lambda saved, bar: (bar * saved[1], bar * saved[0])
    )
    mistaken = ruled(lambda z: z * z, lambda z: (z * z, z), lambda z, bar: (2 * jnp.conj(z) * bar,))
    z = jnp.array([1.0 + 2.0j, -0.5 + 0.3j])
    real = square()

    def f(z):
        return jnp.abs(product(z, z + 1j)).sum() + (0 if right else jnp.abs(mistaken(z)).sum()) + real(z.real).sum()

    report = check.rules(f, (z,))
    assert report.ok == right, report
    assert {"<lambda>.z.real", "<lambda>.z.imag", "square.x"} <= {leaf.name for leaf in report}
    assert check.rules(lambda z: jnp.abs(mistaken(z)).sum(), (z,)).wrong
    assert check.rules(f, (z.astype(jnp.complex64),)).ok == right


def test_a_backward_pass_that_branches_on_its_cotangent_is_that_rules_finding():
    """It fails under `jit`, as it would in any training step; the other rules are judged."""

    def bwd(x, bar):
        return (2 * x * bar if bar.sum() > 0 else x * bar * 2,)

    def branching(x):
        return x * x

    f, good = ruled(branching, lambda x: (x * x, x), bwd), square()
    report = check.rules(lambda x: (f(x) + good(x)).sum(), (X,))
    assert report["square.x"].verdict == "right"
    (leaf,) = report.wrong
    assert leaf.name == "branching"
    assert "TracerBoolConversionError at test_check_rules.py line" in leaf.causes[0].detail


def test_a_clipped_gradient_can_be_allowed():
    def clipped(x):
        return x * 1

    f = ruled(clipped, lambda x: (x * 1, None), lambda _, bar: (jnp.clip(bar, -0.1, 0.1),))
    assert not check.rules(lambda x: f(x).sum(), (X,)).ok
    assert check.rules(lambda x: f(x).sum(), (X,), allow={"clipped"}).ok


@pytest.mark.parametrize("right", [True, False])
def test_a_sum_over_devices_is_neither_missing_nor_doubled(right):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def bwd(saved, bar):
        w, x = saved
        w_bar = jnp.sum(bar * x)
        return w_bar if right else lax.psum(w_bar, "i"), bar * w

    f = ruled(lambda w, x: x * w, lambda w, x: (x * w, (w, x)), bwd)
    mapped = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("i")), out_specs=P("i"), check_vma=False)
    report = check.rules(lambda w, x: jnp.sum(mapped(w, x)), (jnp.asarray(2.0), jnp.arange(1.0, 5)))
    assert [leaf.verdict for leaf in report] == ["right" if right else "wrong", "right"]


def test_a_kink_met_by_a_rule_is_a_kink():
    report = check.rules(lambda x: jax.nn.relu(x).sum(), (jnp.array([0.0, 1.0]),))
    assert report["relu.x"].verdict == "at a kink"


KEY = jax.random.key(0)


def normal(dtype, *shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


OURS = {
    "rnn": lambda dtype: (
        lambda p, x: rnn.loss(p, x, jnp.array([1, 2])),
        (rnn.init(KEY, 3, 5, 4, dtype=dtype), jax.random.normal(KEY, (2, 6, 3), dtype)),
    ),
    "textconv": lambda dtype: (
        lambda p: textconv.loss(p, jnp.array([[1, 2, 1, 0, 3], [3, 3, 2, 2, 1]]), jnp.array([0, 2])),
        (textconv.init(KEY, embed=4, widths=(2,), filters=5, outputs=3, vocab=6, dtype=dtype),),
    ),
    "gated": lambda dtype: (
        lambda p, x, eta: gated.loss(p, x, eta, jnp.array([0, 1, 1])),
        (gated.init(KEY, x=4, eta=3, hidden=5, dtype=dtype), normal(dtype, 3, 4), normal(dtype, 3, 3)),
    ),
    "dense": lambda dtype: (
        lambda p, x: dense.loss(p, x, jnp.array([0, 2, 1])),
        (dense.init(KEY, sizes=(4, 6, 3), dtype=dtype), jax.random.normal(KEY, (3, 4), dtype)),
    ),
    "heads": lambda dtype: (
        lambda h, V: heads.softmax(h, V, None, jnp.array([0, 2])) + heads.logistic(h, V[:, 0], None, jnp.array([0, 1])),
        (jax.random.normal(KEY, (2, 4), dtype), jax.random.normal(KEY, (4, 3), dtype)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", OURS)
def test_our_own_rules(net):
    # The formula is judged in float64 whatever the dtype is; of the two that take longest, in that alone.
    report = check.rules(*OURS[net](jnp.dtype("float64" if net in ("rnn", "textconv") else "float32")))
    report.raise_if_wrong()
    assert len(report.leaves) >= 3


def test_branches_of_other_platforms_need_not_lower_here():
    """A kernel of an accelerator's as the default branch, which this CPU could not run."""
    from jax.experimental import pallas

    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] * x_ref[...]

    def elsewhere(x):
        return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    def square(x):
        return lax.platform_dependent(x, cpu=lambda x: x * x, default=elsewhere)

    for by, right in ((2.0, True), (3.0, False)):
        f = ruled(square, lambda x: (square(x), x), lambda x, bar, by=by: (by * x * bar,))
        assert check.rules(lambda x, f=f: f(x).sum(), (X,)).ok == right
        assert check.gradient(lambda x, f=f: f(x).sum(), lambda x, by=by: by * x, (X,)).ok == right


@pytest.fixture
def by_hijax():
    """`custom_vjp` as hijax primitives, which JAX makes of it where it is asked to."""
    if not hasattr(jax.config, "jax_custom_vjp3"):
        pytest.skip("JAX before 0.11 has no such rules")
    jax.config.update("jax_custom_vjp3", True)
    yield
    jax.config.update("jax_custom_vjp3", False)


def test_rules_that_are_not_read_are_named(by_hijax):
    """The truth is taken with them in: nothing beside them is sure."""
    f = square(3.0)

    def loss(x):
        return jnp.sum(check.mark("z", f(x)))

    def backward(x):
        return {"z": jnp.ones(3), "x": 3 * x}

    for report in (
        check.rules(loss, (X,)),
        check.gradient(loss, lambda x: 3 * x, (X,)),
        check.derivation(loss, backward, (X,)),
    ):
        assert not report.ok
        assert "test_check_rules.py line" in report.unread[0]
        assert "not read: the rule of " in str(report)
        assert report.to_dict()["unread"] == report.unread
