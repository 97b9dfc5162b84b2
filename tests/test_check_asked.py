"""What a program asks of the rules in it, and rules of solvers, which are as exact as their tolerance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import check
from jaxnets.check import _flow, _walk

pytestmark = pytest.mark.usefixtures("ordinary_settings")

X = jnp.array([1.0, 2.0, 0.5])


def scaled(by_factor=True, by_x=2.0):
    """`2·γ·x`, whose rule may give nothing for γ, or something wrong for x."""

    @jax.custom_vjp
    def scaled(x, gamma):
        return 2 * gamma * x

    def bwd(kept, bar):
        x, gamma = kept
        return by_x * gamma * bar, jnp.sum(2 * x * bar).reshape(jnp.shape(gamma)) if by_factor else None

    scaled.defvjp(lambda x, gamma: (2 * gamma * x, (x, gamma)), bwd)
    return scaled


def test_a_constant_by_which_nobody_differentiates():
    f = scaled(by_factor=False)
    report = check.rules(lambda x: f(x, 0.5).sum(), (X,))
    assert report.ok
    assert [leaf.name for leaf in report] == ["scaled.x"]
    assert "scaled.gamma: nobody differentiates by it here: not judged" in report.remarks


@pytest.mark.parametrize(
    "call",
    {
        "an argument": lambda f: check.rules(lambda x, g: f(x, g).sum(), (X, 0.5)),
        "made of one": lambda f: check.rules(lambda x: f(x, x.max()).sum(), (X,)),
        "under jit": lambda f: check.rules(lambda x, g: jax.jit(f)(x, jnp.exp(g)).sum(), (X, 0.5)),
        "carried by a loop": lambda f: check.rules(
            lambda x, g: lax.fori_loop(0, 3, lambda _, c: (f(*c), c[1] / 2), (x, g))[0].sum(), (X, 0.5)
        ),
        "carried on by a while": lambda f: check.rules(
            lambda x: lax.while_loop(lambda c: c[2] < 2, lambda c: (f(*c[:2]), c[0].sum(), c[2] + 1), (x, 0.5, 0))[0],
            (X,),
        ),
        "in a branch": lambda f: check.rules(
            lambda x, g: lax.cond(x[0] > 0, lambda g: f(x, g).sum(), lambda g: g, g), (X, 0.5)
        ),
        "closed over, as parameters are": lambda f: check.rules(lambda: f(jnp.ones(1), X[:1]).sum(), ()),
        "closed over, beside an argument": lambda f: check.rules(lambda x: f(x, X[:1]).sum(), (X,)),
        "of nothing at all": lambda f: check.rules(lambda: f(jnp.arange(3.0), 0.5).sum(), ()),
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_what_somebody_differentiates_by_is_judged(call):
    report = call[1](scaled(by_factor=False))
    assert not report.ok
    assert report["gamma"].verdict == "wrong"
    assert report["x"].verdict == "right"


def test_an_operand_that_is_asked_for_stays_wrong_beside_one_that_is_not():
    f = scaled(by_factor=False, by_x=2.5)
    assert check.rules(lambda x: f(x, 0.5).sum(), (X,)).first == "scaled.x"


def test_what_stops_a_gradient_asks_for_none():
    f = scaled(by_factor=False)
    assert check.rules(lambda x: f(x, lax.stop_gradient(x.max())).sum(), (X,)).ok


def statistics(second):
    """Sum and sum of squares; the rule may forget the second."""

    @jax.custom_vjp
    def statistics(x):
        return x.sum(), (x * x).sum(), jnp.sum(x / 0)

    def fwd(x):
        return statistics(x), x

    def bwd(x, bars):
        return (bars[0] * jnp.ones_like(x) + (2 * x * bars[1] if second else 0),)

    statistics.defvjp(fwd, bwd)
    return statistics


def test_a_result_that_nobody_takes_up():
    """Nor need it be a number."""
    f = statistics(second=False)
    report = check.rules(lambda x: f(x)[0], (X,))
    assert report.ok
    assert any("nobody differentiates 2 of its 3 results" in told for told in report.remarks)
    assert not check.rules(lambda x: f(x)[0] + f(x)[1], (X,)).ok
    assert check.rules(lambda x: sum(statistics(second=True)(x)[:2]), (X,)).ok


def test_a_rule_that_nobody_differentiates_is_told_and_no_alarm():
    f = scaled(by_x=2.5)
    report = check.rules(lambda x: x.sum() + lax.stop_gradient(f(x, 0.5)).sum(), (X,))
    assert not report.wrong
    assert "scaled.x: nobody differentiates by it here: not judged" in report.remarks
    assert not any("no custom_vjp" in told for told in report.remarks)
    # Where nothing could be differentiated, whole rules are looked at.
    assert check.rules(lambda x: jnp.argmax(f(x, 0.5)), (X,)).first == "scaled.x"


@pytest.mark.parametrize("loop", [False, True])
def test_a_result_in_the_branch_that_is_not_taken(loop):
    """As by the `where` of a function that has a hole: what stands in it is nobody's elsewhere. Times zero is another
    matter: a head that begins at zero is no reason to pass a rule."""
    f = scaled(by_x=2.5)

    def chosen(x):
        return jnp.where(x > 0, jnp.sin(x), f(x, 0.5) * 2).sum()

    def called(x):
        return lax.scan(lambda c, _: (chosen(x + 0 * c), None), 0.0, None, length=2)[0] if loop else chosen(x)

    report = check.rules(called, (X,))
    assert not report.wrong
    assert "scaled.x: nobody differentiates by it here: not judged" in report.remarks
    assert check.rules(called, (X - 1.1,)).first == "scaled.x"
    assert check.rules(lambda x: (f(x, 0.5) * 0).sum(), (X,)).first == "scaled.x"


def test_another_value_is_seen_whatever_is_asked():
    @jax.custom_vjp
    def f(x, gamma):
        return gamma * x

    f.defvjp(lambda x, gamma: (gamma * x + 1, gamma), lambda gamma, bar: (gamma * bar, None))
    assert [leaf.name for leaf in check.rules(lambda x: f(x, 0.5).sum(), (X,)).wrong] == ["f (value)"]


def test_what_is_asked_goes_round_a_loop_until_nothing_new_comes():
    def f(x, y):
        def step(_, c):
            a, b, d = c
            return jnp.sin(d), jnp.cos(a), jnp.tanh(b)  # what is in one is in another a step later

        return lax.fori_loop(0, 5, step, (x, 1.0, 2.0))[0] + 0 * y

    by_x = _walk.trace(lambda x: f(x, 0.4), 0.3)
    found = _flow.asked(by_x, lambda value: False)
    inside = {s.eqn.primitive.name: found[s.place] for s in _walk.sites(by_x) if s.lengths}
    assert all(inside[name].operands == [True] and inside[name].results == [True] for name in ("sin", "cos", "tanh"))
    by_y = _walk.trace(lambda y: f(0.3, y), 0.4)
    of_y = _flow.asked(by_y, lambda value: False)
    assert all(not any(of_y[s.place].operands) for s in _walk.sites(by_y) if s.lengths)


def test_a_tolerance_does_nothing_but_end_loops():
    """Among small constants: one in the steps, one that steps adapt to, one that chooses a value, and three tolerances,
    of which one is compared in the loop's body."""

    def f(x):
        def step(c):
            y, change, _ = c
            new = jnp.cos(y * 0.009) + jnp.where(change < 0.008, 0.007, x * 0.006) * 0.005 / (1 + change)
            return new, jnp.abs(new - y), jnp.abs(new - y) > 0.004 * jnp.abs(y) + 0.003

        def going(c):
            return c[2] | (c[1] > 0.002)

        return lax.while_loop(going, step, (x, x, True))[0]

    program = _walk.trace(f, 0.3)
    found = _flow.tolerances(program, lambda size: size < 0.01)
    equations = {s.place: s.eqn for s in _walk.sites(program, holders=True)}
    values = {round(float(equations[place].invars[k].val), 6) for place, k in found}
    assert values == {0.004, 0.003, 0.002}


# Solvers


def settled(way, tolerance=1e-6):
    """Where `y = tanh(w y) / 2 + b − y / 100` comes to rest, found by going on until little changes; its derivative is
    that of the equation: (I − J)ᵀ u = ȳ, solved in a loop likewise."""

    def step(y, w, b, damping=1e-2):
        return jnp.tanh(w @ y) / 2 + b - damping * y

    def rest(go, start):
        def far(c):
            return jnp.max(jnp.abs(c[0] - c[1])) > tolerance

        return lax.while_loop(far, lambda c: (go(c[0]), c[0]), (go(start), start))[0]

    @jax.custom_vjp
    def settled(w, b, start):
        return rest(lambda y: step(y, w, b), start)

    def bwd(kept, bar):
        y, w, b = kept
        _, back = jax.vjp(partial(step, damping=0.0 if way == "a small constant" else 1e-2), y, w, b)
        # The right one gathers every turn's share; the others forget the turns, stop two turns in, or forget a term.
        u = {
            "right": lambda: rest(lambda u: bar + back(u)[0], bar),
            "a small constant": lambda: rest(lambda u: bar + back(u)[0], bar),
            "one turn": lambda: bar,
            "three turns": lambda: bar + back(bar + back(bar + back(bar)[0])[0])[0],
            "a little": lambda: rest(lambda u: bar + back(u)[0], bar) * (1 + 1e-4),
        }[way]()
        return *back(u)[1:], jnp.zeros_like(y)

    def fwd(w, b, start):
        y = settled(w, b, start)
        return y, (y, w, b)

    settled.defvjp(fwd, bwd)
    return settled


def weights(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    w, b, start = rng.normal(size=(3, 3)) / 2, rng.normal(size=3), rng.normal(size=3)
    return tuple(jnp.asarray(a, dtype) for a in (w, b, start))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-10])
def test_a_solver_is_right_within_its_tolerance(tolerance):
    """Its first guess, too, which is left of the iteration and not of the solution."""
    f = settled("right", tolerance)
    report = check.rules(lambda *args: f(*args).sum(), weights(1))
    report.raise_if_wrong()
    assert any("a solver, right within its tolerance" in told for leaf in report for told in leaf.remarks)


@pytest.mark.parametrize(
    ("way", "tolerance"), [("one turn", 1e-3), ("three turns", 1e-6), ("a little", 1e-3), ("a small constant", 1e-6)]
)
def test_no_tolerance_excuses_a_wrong_one(way, tolerance):
    f = settled(way, tolerance)
    report = check.rules(lambda *args: f(*args).sum(), weights(0))
    assert {leaf.name for leaf in report.wrong} >= {"settled.w", "settled.b"}


def test_in_float32_too():
    with jax.enable_x64(False):
        for way, right in (("right", True), ("one turn", False)):
            f = settled(way, 1e-4)
            assert check.rules(lambda *args, f=f: f(*args).sum(), weights(0, np.float32)).ok == right


@pytest.mark.parametrize("right", [True, False])
def test_a_solver_whose_steps_have_no_derivative_is_held_against_what_they_lead_to(right):
    """Halving an interval: autodiff of the steps is zero."""

    @jax.custom_vjp
    def halved(a):
        def half(c):
            low, high = c
            middle = (low + high) / 2
            below = middle**3 + middle < a
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        def going(c):
            return c[1] - c[0] > 1e-6

        return lax.while_loop(going, half, (jnp.array(-3.0), jnp.array(3.0)))[0]

    def bwd(y, bar):
        return (bar / (3 * y**2 + (1 if right else 1.001)),)

    halved.defvjp(lambda a: (halved(a),) * 2, bwd)
    for f, a in ((halved, 1.3), (lambda a: jax.vmap(halved)(a).sum(), [1.3, -0.4])):
        report = check.rules(f, (jnp.array(a),))
        assert report.ok == right
        if right:
            assert "seen by differences" in report["halved.a"].remarks[0]


@pytest.mark.parametrize("end", [1.0, 0.01])
def test_what_time_is_compared_with_is_no_tolerance(end):
    """Neither a step of it nor its end, however small, and whatever comes of it if they are smaller."""

    def moved(y, k):
        def step(c):
            return c[0] + end / 100, c[1] - end / 100 * k * (c[1] - 1)

        return lax.while_loop(lambda c: c[0] < end, step, (0.0, y))[1]

    by_hand = jax.custom_vjp(moved)
    # Right if it went on for ever, and if it ended at once.
    by_hand.defvjp(lambda y, k: (moved(y, k),) * 2, lambda y, bar: (0 * y if end == 1 else bar, 0.0))
    assert check.rules(lambda y, k: by_hand(y, k).sum(), (X, 2.0)).wrong


def test_differences_say_nothing_of_a_solver_that_stops_a_derivative():
    def unit(x):
        s = jnp.sum(x * x)
        n = lax.while_loop(lambda c: jnp.abs(c * c - s) > 1e-6 * s, lambda c: (c + s / c) / 2, jnp.ones((), x.dtype))
        return x / lax.stop_gradient(n)

    def bwd(x, bar):
        n = jnp.linalg.norm(x)
        return (bar / n - x * jnp.sum(bar * x) / n**3,)

    by_hand = jax.custom_vjp(unit)
    by_hand.defvjp(lambda x: (unit(x), x), bwd)
    assert check.rules(lambda x: jnp.sum(jnp.sin(by_hand(x))), (X,)).wrong


def test_a_buffer_that_is_filled_later_is_asked_for_nothing():
    """One entry of it comes from an argument, so that it is no constant; and the rule gives the others what is theirs
    once they are filled."""

    def run(buffer, x):
        def step(i, c):
            return c.at[i].set(jnp.sin(c[i - 1] * x))

        return lax.fori_loop(1, 4, step, buffer)

    @jax.custom_vjp
    def filled(buffer, x):
        return run(buffer, x)

    def bwd(kept, bar):
        buffer_bar, x_bar = jax.vjp(run, *kept)[1](bar)
        return buffer_bar.at[1:].set(bar[1:]), x_bar

    filled.defvjp(lambda buffer, x: (run(buffer, x), (buffer, x)), bwd)
    report = check.rules(lambda y, x: filled(jnp.zeros(4).at[0].set(y), x).sum(), (0.7, 1.2))
    report.raise_if_wrong()
    assert "off in entries only that no argument moves" in report["filled.buffer"].remarks[0]
    assert not check.rules(lambda y, x: filled(jnp.zeros(4) + y, x).sum(), (0.7, 1.2)).ok


def root(through):
    """A root of `y² = a`, given both an equation and a way to solve it, as `lax.custom_root` is: its derivative is that
    of the equation, none comes by the way."""

    @jax.custom_jvp
    def root(equation, way):
        del equation  # it is the same number
        return jnp.sqrt(way)

    @root.defjvp
    def root_jvp(primals, tangents):
        y = root(*primals)
        return y, through * tangents[0] / y

    return root


@pytest.mark.parametrize(
    "mix",
    [jnp.cumsum, jnp.sort, lambda b: jnp.outer(jnp.ones(4), b) @ jnp.ones((4, 4))],
    ids=["a running sum", "sorted", "a square matrix"],
)
def test_what_mixes_entries_moves_them_all(mix):
    """One entry of four comes from an argument; what is made of them keeps their shape, and none is a constant."""

    @jax.custom_vjp
    def squared(x):
        return x**2

    squared.defvjp(lambda x: (x**2, x), lambda x, bar: (2 * x * bar * (jnp.arange(x.size).reshape(x.shape) == 0),))
    report = check.rules(lambda x: squared(mix(jnp.concatenate([x[:1], jnp.zeros(3)]))).sum(), (X,))
    assert report.first == "squared.x"


def test_one_array_that_comes_in_twice_is_judged_in_sum():
    report = check.rules(lambda a: root(0.5)(a, a), (X,))
    report.raise_if_wrong()
    assert "right in sum" in report["root.way"].remarks[-1]
    assert not check.rules(lambda a: root(0.6)(a, a), (X,)).ok
    assert not check.rules(lambda a: root(0.5)(a, a + 0), (X,)).ok  # two arrays are two


def test_branches_within_branches_are_run_once_each():
    """Twice at every level would be 2¹² times."""

    def nested(depth, x):
        if not depth:
            return jnp.sin(x)
        return lax.cond(x > depth, lambda x: nested(depth - 1, x) * 2, lambda x: x, x)

    program, seen = _walk.trace(lambda x: nested(12, x), 1.0), []

    def visit(place, eqn, operands, given):
        seen.append(place)
        return _walk.plain(place, eqn, operands, given)

    value = _walk.run(program, [1.0], visit)[0][0]
    assert value == nested(12, 1.0)
    assert len(seen) <= 100
