"""What JAX lets pass in silence in a derivative rule, whose derivative is right all the same."""

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check._compiled import quickly
from jaxnets.check._names import frames_of
from jaxnets.check._report import UNDECIDABLE, WRONG, Cause, Leaf
from jaxnets.check._solver import bounded

if TYPE_CHECKING:
    from jaxnets.check._rule import Rule


class RaisesError(Exception):
    """A rule that does not let itself be differentiated."""

    def __init__(self, error: BaseException | str):
        self.meant, where = True, ""
        self.traced = isinstance(error, jax.errors.UnexpectedTracerError)  # it closes over what is traced
        if isinstance(error, BaseException):
            frame = next(frames_of(error), None)
            refuses = isinstance(error, NotImplementedError) or (frame and (frame.line or "").startswith("raise"))
            about_form = str(error).startswith(("Custom VJP", "Custom JVP"))
            self.meant = bool(refuses or (frame is None and not about_form))
            where = f" at {os.path.basename(frame.filename)} line {frame.lineno}" if frame and not about_form else ""
            name = "" if refuses or about_form else f"{type(error).__name__}{where}: "
            error = f"raises when differentiated: {name}{_first_line(error)}"
        super().__init__(error)


class Traps:
    """What a rule does at the values that it meets: with other cotangents, in other dtypes, transformed."""

    def __init__(self, rule: "Rule"):
        self.rule = rule

    def found(self, leaves: list[Leaf], plain: Sequence[Any]) -> list[Leaf]:
        """What is seen with two cotangents, not with one alone."""
        try:
            first = self._at(leaves, plain, 3)
            second = {leaf.name: leaf for leaf in (first if first == leaves else self._at(leaves, plain, 5))}
            told = self._told()
        except Exception as error:  # it went well for the cotangent that it was judged with
            self.rule.remarks.append(f"{self.rule.name}: for other cotangents it {RaisesError(error)}")
            return leaves
        before = {leaf.name: leaf for leaf in leaves}
        seen = [leaf if second.get(leaf.name) != before.get(leaf.name) else before.get(leaf.name) for leaf in first]
        return [leaf for leaf in seen if leaf is not None] + told

    def _at(self, leaves: list[Leaf], plain: Sequence[Any], seed: int) -> list[Leaf]:
        rule, floats = self.rule, self.rule.floats()
        out, pull = rule.vjp(floats)
        bars = rule.cotangents(out, seed)
        once = pull(jax.device_put(bars))
        leaves = [self._dtype(leaf, v, g) for leaf, v, g in zip(leaves, floats, once, strict=True)]
        eps = max(rule.eps, eps_of(once))
        pulled = bounded(rule.pull, floats, bars) if rule.solver.loops else rule.pulled
        linear = self._linear(leaves, partial(pulled, floats), bars, 300 * eps)
        unlike = self._unlike(floats, bars, out, once, plain, 1000 * rule.eps)
        if (linear != leaves or unlike) and rule.solver.loops:  # what a loop tolerates is no fault
            floats, bars = rule.precise()
            exact = self._linear(leaves, rule.solver.pull, bars, rule.solver.room)
            linear = [a if b != c else c for a, b, c in zip(linear, exact, leaves, strict=True)]
            with rule.solver.precision():
                out, pull = rule.vjp(floats)
                once = pull(jax.device_put(bars))
                exact = self._unlike(floats, bars, out, once, quickly(rule.plain)(*floats), rule.solver.room)
            unlike = [leaf for leaf in unlike if leaf.name in {e.name for e in exact}]
        return linear + unlike

    def _unlike(self, floats, bars, out, once, plain: Sequence[Any], room: float) -> list[Leaf]:
        """Where the rule gives another value than the function, or something else once it is transformed."""
        some, other = self._some(), self.rule.cotangents(bars, 4)
        return [
            *self._value(out, plain, room),
            *self._same("under jit", lambda: self.rule.pulled(floats, bars), once, some, room),
            *self._same("under vmap", lambda: self._mapped(floats, other, bars), once, some, room),
        ]

    def _dtype(self, leaf: Leaf, value, g) -> Leaf:
        if g.dtype == value.dtype or leaf.verdict == WRONG:
            return leaf
        cause = Cause(
            "shape", f"the gradient has dtype {g.dtype}, its input {value.dtype}: JAX does not convert it", 0.0
        )
        return leaf._replace(verdict=WRONG, causes=(cause, *leaf.causes))

    def _linear(self, leaves, pull, bars, room) -> list[Leaf]:
        def times(factor):
            return [(factor * b.astype(np.float64)).astype(b.dtype) for b in bars]

        once, zero, thrice, back = (pull(times(factor)) for factor in (1, 0, 3, -1))
        other = pull(self.rule.cotangents(bars, 4))
        # A part that nobody takes up has a cotangent of zeros.
        halves = [pull([np.where(np.arange(b.size).reshape(b.shape) % 2 == k, b, 0) for b in bars]) for k in (0, 1)]
        narrow = self.rule.eps == float(jnp.finfo(jnp.float16).eps) or any(
            b.dtype == jnp.float16 for b in [*bars, *once]
        )
        far = 16.0 if narrow else 2.0**14  # a rule may cut off what is large, or what is small
        large, small = ([np.asarray(g, np.float64) / s for g in pull(times(s))] for s in (far, 1 / far))
        changed = []
        all_of_them = zip(leaves, zero, once, thrice, back, other, large, small, *halves, strict=True)
        for leaf, z, g, t, m, o, big, little, even, odd in all_of_them:
            z, g, t, m, o, even, odd = (np.asarray(a, np.float64) for a in (z, g, t, m, o, even, odd))
            size = float(np.max(np.abs(g[np.isfinite(g)]), initial=0))
            off = room * (size or 1.0)
            sides = (t - 3 * g, m + g, z, big - g, little - g, even + odd - g)
            cause = None
            if size and np.array_equal(g, o) and np.array_equal(g, t):
                cause = Cause(
                    "factor", "the incoming cotangent is ignored: right for grad of a scalar, wrong in a graph", 0.0
                )
            elif any(_beyond(d, off, g) for d in sides):
                silent = any(bool(np.any(np.isnan(d) & np.isfinite(g))) for d in (z, even + odd))
                what = "not a number where a cotangent is zero" if silent else "not linear in the incoming cotangent"
                cause = Cause("constant" if _beyond(z, off, g) else "factor", what, 0.0)
            if cause is not None:
                leaf = leaf._replace(verdict=WRONG, causes=(cause, *leaf.causes))
            changed.append(leaf)
        return changed

    def _value(self, out, plain, room) -> list[Leaf]:
        worst, at = 0.0, None
        for o, p, yes in zip(out, plain, self.rule.through, strict=True):
            if not yes:
                continue
            o, p = np.asarray(o, np.float64), np.asarray(p, np.float64)
            both = np.isfinite(o) | np.isfinite(p)
            scale = float(np.max(np.abs(p[np.isfinite(p)]), initial=0)) or 1.0
            off = np.where(both, np.where(np.isfinite(o - p), np.abs(o - p), np.inf), 0) / scale
            if off.size and off.max() > worst:
                worst, at = float(off.max()), tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
        if worst <= room:
            return []
        cause = Cause(
            "place",
            "the forward rule returns another value than the function: value_and_grad differs from the call",
            0.0,
        )
        return [
            Leaf(f"{self.rule.name} (value)", WRONG, worst, worst / self.rule.eps, at, (cause,), source=self.rule.where)
        ]

    def _mapped(self, floats, other, bars):
        """As the second of two, which differ."""
        two = [np.stack([f, f]) for f in floats]
        both = [np.stack([o, b]) for o, b in zip(other, bars, strict=True)]
        mapped = jax.vmap(self.rule.pull)
        return [np.asarray(g)[1] for g in quickly(mapped)(two, both)]

    def _some(self) -> list[int]:
        """The operands that somebody differentiates by."""
        return [i for i in range(len(self.rule.at)) if self.rule.is_asked(i) or not self.rule.asked_at_all]

    def _told(self) -> list[Leaf]:
        """By the operands that somebody differentiates by alone, through the results that somebody takes up: a rule may
        be told which others are constant (`symbolic_zeros`). JAX keeps what a rule saves for the zeros that it is first
        asked with: this comes last, and by an equation of its own."""
        rule, some, floats = self.rule, self._some(), self.rule.floats()
        if not rule.eqn.params.get("symbolic_zeros"):
            return []
        out, pull = rule.vjp(floats)
        bars = rule.cotangents(out, 3)
        once, eqn = pull(jax.device_put(bars)), rule.rule.again()

        def taken_up(*given):
            known = dict(zip(some, given, strict=True))
            out = rule.run(eqn, [known.get(i, v) for i, v in enumerate(floats)], removed=False)
            return [o for o, yes in zip(out, rule.through, strict=True) if yes]

        pull = jax.vjp(taken_up, *(jax.device_put(floats[i]) for i in some))[1]
        came = dict(zip(some, pull([b for b, yes in zip(bars, rule.through, strict=True) if yes]), strict=True))
        got = [came.get(i) for i in range(len(floats))]
        # Which of the two a program gets hangs on how JAX comes to know of its zeros: it is told, and no verdict.
        found = self._same("told what is constant", lambda: got, once, some, 1000 * rule.eps)
        return [leaf._replace(verdict=UNDECIDABLE, causes=(), remarks=(str(leaf.causes[0]),)) for leaf in found]

    def _same(self, what, run, once, some, room) -> list[Leaf]:
        if self.rule.eqn.primitive.name == "shard_map":
            return []
        try:
            got = run()
        except Exception:  # not every rule can be mapped; that is no error in its derivative
            return []
        worst = 0.0
        for i in some:
            g, o = np.asarray(got[i], np.float64), np.asarray(once[i], np.float64)
            scale = float(np.max(np.abs(o[np.isfinite(o)]), initial=0)) or 1.0
            same = np.isnan(g) & np.isnan(o)
            off = np.where(same, 0, np.abs(g - o))
            worst = max(worst, float(np.max(np.where(np.isnan(off), np.inf, off), initial=0)) / scale)
        if worst <= room:
            return []
        cause = Cause("place", f"the rule gives something else {what}", 0.0)
        ulp = worst / self.rule.eps
        return [Leaf(f"{self.rule.name} ({what})", WRONG, worst, ulp, None, (cause,), source=self.rule.where)]


def _beyond(off: np.ndarray, room: float, once: np.ndarray) -> bool:
    """Whether anything is off by more; not a number is, where there is one for the cotangent itself."""
    return bool(np.any(~(np.abs(off) <= room) & np.isfinite(once)))


def eps_of(values: Sequence[Any]) -> float:
    floats = [v for v in values if jnp.issubdtype(v.dtype, jnp.floating)]
    return max((float(jnp.finfo(v.dtype).eps) for v in floats), default=float(np.finfo(np.float64).eps))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
