"""What a new user stumbles into: jumps, marks that nothing takes up, rules that break, options that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxnets import check, cli

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("wrong", [lambda w: -2 * w * jnp.floor(w[0]), lambda w: 2.2 * w * jnp.floor(w[0])])
def test_a_jump_hides_no_mistake(wrong):
    """At a jump no difference says anything; autodiff does, and the entries that are not at it are smooth."""

    def f(w):
        return jnp.sum(w**2) * jnp.floor(w[0])

    w = np.array([1.0, 2.0, 0.5])
    assert check.gradient(f, wrong, (w,)).wrong
    assert check.gradient(f, lambda w: 2 * w * jnp.floor(w[0]), (w,)).ok


def test_jumps_of_whole_numbers():
    w = np.array([1.0, 2.0, 3.0])
    assert check.gradient(lambda w: jnp.sum(jnp.floor(w) * w), lambda w: np.array([5.0, 7, 100]), (w,)).wrong
    assert check.gradient(lambda w: jnp.sum(w**2).astype(int), lambda w: 2 * w, (w,)).wrong


def rule(f, backward):
    ruled = jax.custom_vjp(f)
    ruled.defvjp(lambda x: (f(x), x), backward)
    return ruled


def broken_name(x, g):
    return (undefined * g,)  # noqa: F821 # pyright: ignore[reportUndefinedVariable]


def refuses(x, g):
    raise NotImplementedError("no second derivative")


def test_a_rule_that_breaks_is_wrong_and_one_that_refuses_is_not():
    x = (RNG.normal(size=(4, 3)),)
    good = rule(jnp.sin, lambda x, g: (g * jnp.cos(x),))
    for backward, told in (
        (lambda x, g: (2 * g.T,), "Custom VJP"),
        (broken_name, "NameError at test_check_traps.py line"),
    ):
        broken = rule(lambda x: 2 * x, backward)
        report = check.rules(lambda x, f=broken: jnp.sum(good(x)) + jnp.sum(f(x)), x)
        (leaf,) = report.wrong
        assert leaf.causes[0].kind == "shape"
        assert told in leaf.causes[0].detail
    report = check.rules(lambda x: jnp.sum(good(x)) + jnp.sum(rule(lambda x: 2 * x, refuses)(x)), x)
    assert report.ok
    assert "no second derivative" in str(report)


@pytest.mark.parametrize(
    "backward", [lambda x, g: (jnp.clip(g, -50, 50),), lambda x, g: (jnp.where(abs(g) < 1e-3, 0, g),)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_cotangent_that_is_cut_off(backward, dtype):
    cut = rule(lambda x: x * 1, backward)
    report = check.rules(lambda x: jnp.sum(cut(x) ** 2), (RNG.normal(size=(4, 3)).astype(dtype),))
    assert "not linear in the incoming cotangent" in str(report)
    assert check.rules(lambda x: jnp.sum(cut(x) ** 2), (np.ones(3, dtype),), allow="<lambda>").ok


@pytest.mark.parametrize("check_vma", [True, False])
def test_rules_within_shard_map_are_taken_out(check_vma):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices("cpu")[:2])
    product = jax.custom_vjp(lambda x, w: x @ w)

    def backward(kept, g):  # thrice what it should be
        w_bar = 3 * kept[0].T @ g
        return g @ kept[1].T, jax.lax.psum(w_bar, "i") if check_vma else w_bar

    product.defvjp(lambda x, w: (x @ w, (x, w)), backward)
    split = jax.shard_map(product, mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=check_vma)
    args = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 5))

    def f(x, w):
        return jnp.sum(split(x, w) ** 2)

    right = check.gradient(f, lambda x, w: x.T @ (2 * (x @ w)), args, argnums=1)
    assert right.ok, right
    wrong = check.gradient(f, lambda x, w: 3 * x.T @ (2 * (x @ w)), args, argnums=1)
    assert wrong.wrong[0].causes[0].kind == "scale", wrong


def test_a_mark_that_nothing_takes_up():
    def forward(W, x):
        z = x @ W
        check.mark("z", z)
        return jnp.sum(jnp.tanh(z))

    def backward(W, x):
        z_bar = 1 - np.tanh(x @ W) ** 2
        return {"z": z_bar, "W": x.T @ z_bar}

    with pytest.raises(ValueError, match=r'nothing uses what mark\("z", …\) returned'):
        check.derivation(forward, backward, (RNG.normal(size=(3, 4)), RNG.normal(size=(5, 3))))


def test_a_derivation_with_a_while_loop():
    def forward(w):
        w = check.mark("a", 2 * w)
        return jnp.sum(jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, w))[1])

    with pytest.raises(TypeError, match="has a while loop, or something else that has no backward pass"):
        check.derivation(forward, lambda w: {"w": w}, (np.ones(3),))


def test_a_while_loop_that_gradients_do_not_go_through():
    def forward(w):
        n = jax.lax.while_loop(lambda n: n < 3, lambda n: n + 1, 0)
        return jnp.sum(check.mark("a", w * n))

    assert check.derivation(forward, lambda w: {"a": np.ones(3), "w": 3 * np.ones(3)}, (np.arange(3.0),)).ok


def test_a_derivation_in_numpy():
    """Read as a program with jax.numpy in NumPy's place."""

    def forward(W, x):
        z = check.mark("z", x @ W)
        return float(np.sum(np.tanh(z)))

    def forward_plain(W, x):
        return np.sum(np.tanh(check.mark("z", x @ W)))

    def backward(W, x):
        z_bar = 1 - np.tanh(x @ W)  # the square is missing
        return {"z": z_bar, "W": x.T @ z_bar}

    args = RNG.normal(size=(3, 4)), RNG.normal(size=(5, 3))
    assert check.derivation(forward_plain, backward, args).first == "z"
    with pytest.raises(TypeError, match="lines need a program"):
        check.derivation(forward, backward, args)


def test_rules_of_numpy_code():
    with pytest.raises(TypeError, match="NumPy code has no rules"):
        check.rules(lambda x: float(np.sum(np.sin(x))), (np.ones(3),))


def test_leaves_go_by_name():
    report = check.gradient(lambda w: jnp.sum(w), np.ones_like, (np.arange(3.0),))
    with pytest.raises(KeyError, match="leaves go by name"):
        report[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("{f} --by-hand grads --allow a", "--allow goes with --rules"),
        ("{f} --derivation grads --argnums 0", "--argnums goes with --by-hand"),
        ("rnn --worksheets", "--worksheets takes no other arguments"),
    ],
)
def test_options_that_do_not_go_together(options, told, tmp_path, capsys):
    (tmp_path / "a.py").write_text("def loss(w): return w\ndef grads(w): return 1\nexample = (1.0,)\n")
    assert cli.main(["check", *options.format(f=f"{tmp_path / 'a.py'}:loss").split()]) == 2
    assert told in capsys.readouterr().err


def test_rules_within_wrappers_go_by_what_is_wrapped():
    @jax.custom_gradient
    def square(x):
        return x * x, lambda g: 3 * g * x

    report = check.rules(lambda x: jnp.sum(square(x)), (RNG.normal(size=3),))
    assert report.first == "square.args[0]"
    assert "custom_derivatives.py" not in str(report)
