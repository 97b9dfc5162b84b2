"""Rules that an audit could overlook, and faults that show only where a program asks for them in its own way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from jaxnets import check

pytestmark = pytest.mark.usefixtures("ordinary_settings")

X = jnp.asarray(np.random.default_rng(1).normal(size=4))


def with_rule(function, fwd, bwd):
    function = jax.custom_vjp(function)
    function.defvjp(fwd, bwd)
    return function


def cubed(x):
    return x**3


def sine(x):
    return jnp.sin(x)


WRONG = with_rule(cubed, lambda x: (x**3, x), lambda x, bar: (bar * x**2,))  # 3 is missing
RIGHT = with_rule(sine, lambda x: (jnp.sin(x), x), lambda x, bar: (bar * jnp.cos(x),))


# Where a rule stands


@pytest.mark.parametrize(
    "f",
    {
        "under grad": lambda x: jnp.sum(jax.grad(lambda z: jnp.sum(WRONG(z)))(x) ** 2),
        "under grad in a scan": lambda x: jnp.sum(
            lax.scan(lambda w, _: (w - jax.grad(lambda w: jnp.sum(WRONG(w)))(w), None), x, None, length=2)[0]
        ),
        "under vjp": lambda x: jnp.sum(jax.vjp(WRONG, x)[1](x)[0]),
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_a_rule_that_leaves_no_equation(f):
    """It is differentiated all the same, and judged at the values that it meets, by what it is differentiated by."""
    assert check.rules(lambda x: f[1](x) + jnp.sum(RIGHT(x)), (X,)).first == "cubed.x"
    assert jax.custom_vjp.__call__.__name__ == "__call__"  # watching is over


def test_a_right_one_under_grad_is_no_alarm():
    report = check.rules(lambda x: jnp.sum(jax.grad(lambda z: jnp.sum(RIGHT(z)))(x)), (X,))
    report.raise_if_wrong()
    assert [leaf.name for leaf in report] == ["sine.x"]


def test_what_is_held_constant_there_is_no_alarm():
    """As by a solver's Newton steps, which differentiate by the unknown alone."""
    scaled = with_rule(lambda k, z: k * z, lambda k, z: (k * z, k), lambda k, bar: (None, k * bar))
    report = check.rules(lambda x: jnp.sum(jax.grad(lambda z: jnp.sum(scaled(x, z) ** 2))(x)), (X,))
    assert report.ok
    assert [leaf.verdict for leaf in report] == ["right"]


def test_rules_in_what_is_not_walked_into_are_named():
    report = check.rules(lambda x: jnp.sum(RIGHT(x)) + jnp.sum(lax.composite(WRONG, name="my.op")(x)), (X,))
    assert not report.ok
    assert not report.wrong
    assert "the rules in" in report.unread[0]


def test_a_gradient_beside_a_rule_that_cannot_be_taken_out_is_not_ok():
    """The truth is taken with the rule in: twice the right gradient would pass for right."""
    product = with_rule(
        lambda d, v: d * v, lambda d, v: (d * v, (d, v)), lambda kept, bar: (2 * bar * kept[1], bar * kept[0])
    )

    def f(d):
        return jnp.sum(jax.scipy.sparse.linalg.cg(lambda v: product(d, v), jnp.ones(2), maxiter=9)[0])

    d = (jnp.array([2.0, 3.0]),)
    for report in (check.gradient(f, lambda d: -2 / d**2, d), check.rules(f, d)):
        assert not report.ok
        assert "the rules in" in report.unread[0]


def test_a_rule_in_a_while_that_is_mapped():
    def one(x):
        return lax.while_loop(lambda c: c[1] < 3 * jnp.abs(x) + 1, lambda c: (WRONG(c[0]) / 2, c[1] + 1), (x, 0.0))[0]

    report = check.rules(jax.vmap(one), (X,))
    assert report.first == "cubed.x"
    assert not report.not_compared
    got, want = (np.asarray(g(X)) for g in (jax.vmap(one), lambda x: jnp.stack([one(a) for a in x])))
    np.testing.assert_allclose(got, want)


def test_where_a_function_compares_its_rule_still_carries_the_gradient():
    """Upstream and downstream of one whose values go by comparisons: another rule is not nobody's."""

    def step(x):
        return jnp.where(x > 0, 1.0, -1.0)

    straight = with_rule(step, lambda x: (step(x), None), lambda _, bar: (bar,))
    assert check.rules(lambda x: jnp.sum(WRONG(straight(x) * 2)), (X,), allow="step").first == "cubed.x"
    assert check.rules(lambda x: jnp.sum(straight(WRONG(x))), (X,), allow="step").first == "cubed.x"


def test_two_rules_of_one_name_are_told_apart():
    """The remark on the one that nobody asks stays beside the other's verdict."""
    other = with_rule(sine, lambda x: (jnp.sin(x), x), lambda x, bar: (bar * 2,))
    report = check.rules(lambda x: jnp.sum(RIGHT(x)) + jnp.sum(lax.stop_gradient(other(x))), (X,))
    assert report.ok
    assert "sine.x: nobody differentiates by it here: not judged" in report.remarks


def test_parameters_that_an_inner_jit_closes_over():
    w = jnp.ones((4, 2))

    def product(x, w):
        return x @ w

    product = with_rule(
        product, lambda x, w: (x @ w, (x, w)), lambda kept, bar: (bar @ kept[1].T, 3 * jnp.outer(kept[0], bar))
    )
    layer = jax.jit(lambda x: product(x, w))
    assert check.rules(lambda x: layer(x).sum(), (X,)).first == "product.w"


def test_a_few_values_of_many():
    """Of a loop's the first, the largest and another; that it were more is told."""
    rule = with_rule(
        jnp.tanh,
        lambda x: (jnp.tanh(x), x),
        lambda x, bar: (jnp.where(jnp.abs(x) > 2.5, 0, bar * (1 - jnp.tanh(x) ** 2)),),
    )
    values = jnp.linspace(-1, 1, 40).at[17].set(3.0)
    report = check.rules(lambda xs: lax.scan(lambda c, x: (c + rule(x), None), 0.0, xs)[0], (values,))
    assert report.wrong
    assert any("met 40 times here, and judged at 3 of them" in told for told in report.remarks)


# How it is asked


def test_what_a_rule_makes_of_being_told_what_is_constant():
    """Where a result is not taken up, where an operand is constant: by `symbolic_zeros` a rule may tell."""
    pair = jax.custom_vjp(lambda x: (jnp.sin(x), jnp.cos(x)))

    def bwd(x, bars):
        a, b = bars
        if isinstance(b, SymbolicZero):
            return (2 * jnp.cos(x) * a,)
        return (a * jnp.cos(x) - b * jnp.sin(x),)

    pair.defvjp(lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value), bwd, symbolic_zeros=True)
    report = check.rules(lambda x: jnp.sum(pair(x)[0]), (X,))
    assert not report.ok
    assert "something else told what is constant" in str(report)

    product = jax.custom_vjp(lambda a, b: a * b)

    def fwd(a, b):
        return a.value * b.value, (a.value if b.perturbed else None, b.value if b.perturbed else None)

    def back(kept, bar):
        a, b = kept
        return (jnp.zeros_like(bar), jnp.zeros_like(bar)) if a is None else (bar * b, bar * a)

    product.defvjp(fwd, back, symbolic_zeros=True)
    report = check.rules(lambda x: jnp.sum(product(x, np.arange(1.0, 5))), (X,))
    assert not report.ok
    assert "something else told what is constant" in str(report)
    assert check.rules(lambda x, y: jnp.sum(product(x, y)), (X, X + 1)).ok


@pytest.mark.parametrize(
    "of_bar",
    [lambda bar: jnp.linalg.norm(bar) * (bar / jnp.linalg.norm(bar)), lambda bar: bar**3 / bar**2],
    ids=["of no cotangent", "of one that is zero somewhere"],
)
def test_no_number_for_a_cotangent_of_zeros(of_bar):
    rule = with_rule(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, bar: (of_bar(bar) * jnp.cos(x),))
    report = check.rules(lambda x: jnp.sum(rule(x)), (X,))
    assert "not a number where a cotangent is zero" in str(report)


def test_examples_that_are_mixed_under_vmap():
    def first(bar):
        return np.broadcast_to(bar.reshape(-1, bar.shape[-1])[0], bar.shape)

    def bwd(x, bar):
        shape = jax.ShapeDtypeStruct(bar.shape, bar.dtype)
        return (jax.pure_callback(first, shape, bar, vmap_method="broadcast_all") * jnp.cos(x),)

    rule = with_rule(sine, lambda x: (jnp.sin(x), x), bwd)
    assert "under vmap" in check.rules(lambda x: jnp.sum(rule(x)), (X,)).first


def test_a_rule_for_tangents_that_forward_mode_alone_goes_through():
    @jax.custom_jvp
    def squared(x):
        return x * x

    def twice(x, by):
        return lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, by * x * c[1]), (0, x * 0 + 1))[1]

    for by, ok in ((2, True), (3, False)):
        squared.defjvp(
            lambda x, t, by=by: (
                x[0] ** 2,
                lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, by * x[0] * c[1]), (0, t[0]))[1],
            )
        )
        report = check.rules(lambda x: jnp.sum(squared(x)), (X,))
        assert report.ok == ok
        assert not report.not_compared


def test_values_that_are_no_numbers_in_places():
    """As behind a mask of −∞: judged by the others."""

    def bwd(y, bar):
        return (bar - 2 * jnp.exp(y) * jnp.sum(bar),)

    def log_softmax(z):
        return jax.nn.log_softmax(z)

    rule = with_rule(log_softmax, lambda z: (log_softmax(z),) * 2, bwd)
    mask = np.array([True, True, False, True])
    report = check.rules(lambda z: jnp.sum(jnp.where(mask, rule(jnp.where(mask, z, -jnp.inf)), 0)), (X,))
    assert report.wrong
    assert not report.not_compared


def test_random_keys_are_operands_too():
    def drop(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)

    rule = with_rule(drop, lambda key, x: (drop(key, x), key), lambda key, bar: (None, drop(key, bar)))
    assert check.rules(lambda key, x: jnp.sum(rule(key, x)), (jax.random.key(0), X)).ok
    half = with_rule(drop, lambda key, x: (drop(key, x), key), lambda key, bar: (None, drop(key, bar) / 2))
    assert check.rules(lambda x: jnp.sum(half(jax.random.key(0), x)), (X,)).first == "drop.x"


def test_a_rule_of_short_floats_inside():
    """Held to their precision, not to that of what goes in and comes out."""

    def product(x, w):
        return (x.astype(jnp.float16) @ w.astype(jnp.float16)).astype(x.dtype)

    x, w = (np.random.default_rng(k).normal(size=s).astype(np.float32) for k, s in enumerate([(6, 4), (4, 3)]))
    for by in (1, 1.06):
        rule = with_rule(product, lambda x, w: jax.vjp(product, x, w), lambda pull, bar, by=by: pull(bar * by))
        assert check.rules(lambda x, w, rule=rule: jnp.sum(jnp.tanh(rule(x, w))), (x, w)).ok == (by == 1)


# What is stopped


def test_what_is_stopped_is_held_by_differences():
    """Kinks that cancel are seen beside it, and NaN of autodiff at other entries makes no alarm."""

    def softplus(x):
        return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))

    def f(x):
        return jnp.sum(softplus(x)) + jax.nn.logsumexp(2 * x)

    def by_hand(x, at_zero):
        return jax.nn.sigmoid(x).at[0].set(at_zero) + 2 * jax.nn.softmax(2 * x)

    x = jnp.array([0.0, 1.0, -2.0])
    for at_zero in (0.0, 0.5, 1.4):
        assert check.gradient(f, lambda x, a=at_zero: by_hand(x, a), (x,)).ok == (at_zero == 0.5)

    def distance(w):
        return jnp.sum(jnp.linalg.norm(w, axis=1)) + jnp.sum((w - lax.stop_gradient(jnp.tanh(w))) ** 2)

    def its_gradient(w):
        n = jnp.linalg.norm(w, axis=1, keepdims=True)
        return jnp.where(n > 0, w / jnp.where(n > 0, n, 1), 0) + 2 * (w - jnp.tanh(w))

    w = jnp.array([[0.0, 0.0], [1.0, 2.0]])
    assert check.gradient(distance, its_gradient, (w,)).ok
    assert not check.gradient(distance, lambda w: 1.01 * its_gradient(w), (w,)).ok


def test_what_is_stopped_in_a_scan_is_held_at_each_step():
    def f(x):
        return lax.scan(lambda c, _: (jnp.sin(c) * lax.stop_gradient(c), None), x, None, length=3)[0].sum()

    assert check.gradient(f, jax.grad(f), (X,)).ok
    assert not check.gradient(f, lambda x: 1.01 * jax.grad(f)(x), (X,)).ok


def test_what_a_linear_solver_stops_is_its_own_affair():
    def f(a):
        return jnp.sum(jnp.linalg.solve(a, jnp.arange(3.0)))

    a = jnp.eye(3) + jnp.arange(9.0).reshape(3, 3) / 7
    report = check.gradient(f, jax.grad(f), (a,))
    report.raise_if_wrong()
    assert "confirmed by differences" in report.reference
    assert not check.gradient(f, lambda a: 1.01 * jax.grad(f)(a), (a,)).ok


@pytest.mark.parametrize(("rule", "ok"), [(RIGHT, True), (WRONG, False)])
def test_what_is_stopped_in_a_shard_map(rule, ok):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    over = {"mesh": mesh, "in_specs": PartitionSpec("i"), "out_specs": PartitionSpec("i")}
    f = jax.shard_map(lambda x: rule(x) * lax.stop_gradient(x), **over)
    assert check.rules(lambda x: jnp.sum(f(x)), (X,)).ok == ok
