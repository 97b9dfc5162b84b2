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
from jaxnets.check._report import WRONG, Cause, Leaf

if TYPE_CHECKING:
    from jaxnets.check._rule import Rule


class RaisesError(Exception):
    """A rule that does not let itself be differentiated."""

    def __init__(self, error: BaseException | str):
        self.meant, where = True, ""
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
            if first == leaves:
                return leaves
            second = {leaf.name: leaf for leaf in self._at(leaves, plain, 5)}
        except Exception as error:  # it went well for the cotangent that it was judged with
            self.rule.remarks.append(f"{self.rule.name}: for other cotangents it {RaisesError(error)}")
            return leaves
        before = {leaf.name: leaf for leaf in leaves}
        seen = [leaf if second.get(leaf.name) != before.get(leaf.name) else before.get(leaf.name) for leaf in first]
        return [leaf for leaf in seen if leaf is not None]

    def _at(self, leaves: list[Leaf], plain: Sequence[Any], seed: int) -> list[Leaf]:
        floats = self.rule.floats()
        out, pull = jax.vjp(self.rule.ruled, *jax.device_put(floats))
        bars = self.rule.cotangents(out, seed)
        once = pull(jax.device_put(bars))
        leaves = [self._dtype(leaf, v, g) for leaf, v, g in zip(leaves, floats, once, strict=True)]
        eps = eps_of([*floats, *once])
        linear = self._linear(leaves, partial(self.rule.pulled, floats), bars, 300 * eps)
        unlike = self._unlike(floats, bars, out, once, plain, 1000 * eps_of(floats))
        if (linear != leaves or unlike) and self.rule.solver.loops:  # what a loop tolerates is no fault
            floats, bars = self.rule.precise()
            exact = self._linear(leaves, self.rule.solver.pull, bars, self.rule.solver.room)
            linear = [a if b != c else c for a, b, c in zip(linear, exact, leaves, strict=True)]
            with self.rule.solver.precision():
                out, pull = jax.vjp(self.rule.ruled, *jax.device_put(floats))
                once = pull(jax.device_put(bars))
                exact = self._unlike(floats, bars, out, once, quickly(self.rule.plain)(*floats), self.rule.solver.room)
            unlike = [leaf for leaf in unlike if leaf.name in {e.name for e in exact}]
        return linear + unlike

    def _unlike(self, floats, bars, out, once, plain: Sequence[Any], room: float) -> list[Leaf]:
        """Where the rule gives another value than the function, or something else once it is transformed."""
        return [
            *self._value(out, plain, room),
            *self._same_under("jit", lambda: self.rule.pulled(floats, bars), once, room),
            *self._same_under("vmap", lambda: self._mapped(floats, bars), once, room),
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
        narrow = any(b.dtype == jnp.float16 for b in [*bars, *once])
        far = 16.0 if narrow else 2.0**14  # a rule may cut off what is large, or what is small
        large, small = ([np.asarray(g, np.float64) / s for g in pull(times(s))] for s in (far, 1 / far))
        changed = []
        for leaf, z, g, t, m, o, big, little in zip(leaves, zero, once, thrice, back, other, large, small, strict=True):
            z, g, t, m, o = (np.asarray(a, np.float64) for a in (z, g, t, m, o))
            size = float(np.max(np.abs(g[np.isfinite(g)]), initial=0))
            off = room * (size or 1.0)
            cause = None
            if size and np.array_equal(g, o) and np.array_equal(g, t):
                cause = Cause(
                    "factor", "the incoming cotangent is ignored: right for grad of a scalar, wrong in a graph", 0.0
                )
            elif any(bool(np.any(np.abs(d) > off)) for d in (t - 3 * g, m + g, z, big - g, little - g)):
                cause = Cause(
                    "constant" if np.any(np.abs(z) > off) else "factor", "not linear in the incoming cotangent", 0.0
                )
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
        eps = eps_of(self.rule.floats())
        if worst <= room:
            return []
        cause = Cause(
            "place",
            "the forward rule returns another value than the function: value_and_grad differs from the call",
            0.0,
        )
        return [Leaf(f"{self.rule.name} (value)", WRONG, worst, worst / eps, at, (cause,), source=self.rule.where)]

    def _mapped(self, floats, bars):
        two = [np.stack([f, f]) for f in floats]
        bars = [np.stack([b, b]) for b in bars]
        mapped = jax.vmap(lambda a, b: jax.vjp(self.rule.ruled, *a)[1](b))
        return [np.asarray(g)[1] for g in quickly(mapped)(two, bars)]

    def _same_under(self, what, run, once, room) -> list[Leaf]:
        if self.rule.eqn.primitive.name == "shard_map":
            return []
        try:
            got = run()
        except Exception:  # not every rule can be mapped; that is no error in its derivative
            return []
        worst = 0.0
        for i, (g, o) in enumerate(zip(got, once, strict=True)):
            if self.rule.asked_at_all and not self.rule.is_asked(i):
                continue
            g, o = np.asarray(g, np.float64), np.asarray(o, np.float64)
            scale = float(np.max(np.abs(o[np.isfinite(o)]), initial=0)) or 1.0
            same = np.isnan(g) & np.isnan(o)
            off = np.where(same, 0, np.abs(g - o))
            worst = max(worst, float(np.max(np.where(np.isnan(off), np.inf, off), initial=0)) / scale)
        eps = eps_of(self.rule.floats())
        if worst <= room:
            return []
        cause = Cause("place", f"the rule gives something else under {what}", 0.0)
        return [
            Leaf(f"{self.rule.name} (under {what})", WRONG, worst, worst / eps, None, (cause,), source=self.rule.where)
        ]


def eps_of(values: Sequence[Any]) -> float:
    floats = [v for v in values if jnp.issubdtype(v.dtype, jnp.floating)]
    return max((float(jnp.finfo(v.dtype).eps) for v in floats), default=float(np.finfo(np.float64).eps))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
