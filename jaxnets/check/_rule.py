"""One derivative rule at one set of values: held against the function that it decorates, and tried for traps."""

import contextlib
import os
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._compare import compare_all
from jaxnets.check._compiled import quickly
from jaxnets.check._gradient import explain, run_by_hand
from jaxnets.check._names import Given, frames_of, is_library
from jaxnets.check._numeric import source
from jaxnets.check._precision import double
from jaxnets.check._reference import CANNOT, Reference
from jaxnets.check._report import RIGHT, WRONG, Cause, Leaf


class Found(NamedTuple):
    """A rule as an equation in the caller's precision and, where the program is the same there, in float64."""

    name: str
    eqn: Any
    wide: Any
    place: _walk.Place


def _rule_of(eqn: Any) -> str:
    """Where the rule itself stands."""
    info = next(
        (eqn.params[p].debug_info for p in ("bwd", "jvp_jaxpr_fun") if hasattr(eqn.params.get(p), "debug_info")), None
    )
    if info is None or " at " not in (info.func_src_info or ""):
        return ""
    name, _, place = info.func_src_info.partition(" at ")
    file, _, line = place.rpartition(":")
    if is_library(file):  # one that JAX makes around what was written
        return ""
    return f"rule {name} ({os.path.basename(file)} line {line}), "


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


class Rule:
    """One rule at one set of values, as a function of its floating operands."""

    def __init__(self, rule: Found, sample: list[np.ndarray]):
        self.rule, self.sample, self.eqn = rule, sample, rule.eqn
        fixed = rule.eqn.params.get("num_consts", 0)  # what the function closes over: JAX gives it no derivative
        # Operands, complex ones as two: their numbers, and which part it is.
        self.at = [(k, part) for k, v in enumerate(sample) if k >= fixed for part in _parts(v.dtype)]
        self.seed = 0
        self.pulled = quickly(lambda floats, bars: jax.vjp(self.ruled, *floats)[1](bars))
        self.where = f"{_rule_of(rule.eqn)}met in {_walk.source(rule.eqn)}"

    def floats(self) -> list[np.ndarray]:
        return [getattr(self.sample[k], part) if part else self.sample[k] for k, part in self.at]

    def _operands(self, floats):
        operands = jax.device_put(self.sample)
        given = dict(zip(self.at, floats, strict=True))
        for k, part in self.at:
            operands[k] = jax.lax.complex(given[k, "real"], given[k, "imag"]) if part else given[k, part]
        return operands

    def _equation(self, floats):
        wide = any(v.dtype == jnp.float64 for v in floats)
        narrow = any(v.dtype != np.float64 for v in self.floats())
        if wide and narrow:
            if self.rule.wide is None:
                raise TypeError("this rule is fixed to its precision")
            return self.rule.wide
        return self.eqn

    def _run(self, floats, removed):
        eqn = self._equation(floats)
        operands = self._operands(floats)
        if eqn is self.rule.wide and eqn is not self.eqn:
            # Counts and labels are of another width there too.
            operands = [jnp.asarray(o, v.aval.dtype) for o, v in zip(operands, eqn.invars, strict=True)]
        if removed and "call_jaxpr" in eqn.params:
            out, _ = _walk.run(eqn.params["call_jaxpr"], operands)
        else:
            out = _walk.bind(eqn, operands)
        return [getattr(o, part) if part else o for o in out for part in _parts(o.dtype)]

    def ruled(self, *floats):
        return self._run(floats, removed=False)

    def cotangents(self, out, seed):
        rng = source(seed)
        return [np.asarray(rng.normal(size=o.shape), o.dtype) for o in out]

    def _scalar(self, removed):
        def f(*floats):
            out = self._run(floats, removed)
            dtype = jnp.float64 if any(o.dtype == jnp.float64 for o in out) else jnp.float32
            bars = self.cotangents(out, self.seed)
            # Summed wide, so that only the rule's own rounding is seen.
            return sum(
                (jnp.sum(o.astype(dtype) * b.astype(dtype)) for o, b in zip(out, bars, strict=True)),
                jnp.zeros((), dtype),
            )

        return f

    def _by_rule(self, *floats):
        try:
            out = jax.eval_shape(self.ruled, *floats)
            return self.pulled(floats, self.cotangents(out, self.seed))
        except Exception as error:
            raise RaisesError(error) from error

    def judge(self) -> list[Leaf]:
        """A leaf for each floating operand, and more where a trap is found."""
        if not self.at:
            return []
        plain = quickly(partial(self._run, removed=True))(self.floats())
        if not plain:
            return []
        if not all(np.all(np.isfinite(np.asarray(o, np.float64))) for o in plain):
            raise RaisesError("its own value is not finite where it is met: there is no derivative to test")
        given = Given(self.ruled, self.floats(), None)
        given.leaves = [
            (f"{self.rule.name}.{n}", v) for n, (_, v) in zip(self._argument_names(), given.leaves, strict=True)
        ]
        leaves = self._derivative(given)
        if all(leaf.verdict == RIGHT for leaf in leaves) and not self._right_for_another():
            self.seed = 1
            leaves = self._derivative(given)
        return self._traps(leaves, plain)

    def _right_for_another(self) -> bool:
        """Whether another cotangent has the right adjoints too, as far as a glance shows."""
        if self.eqn.primitive.name == "shard_map":
            return True
        wide = self.rule.wide is not None
        with double() if wide else contextlib.nullcontext():
            floats = [v.astype(np.float64) for v in self.floats()] if wide else self.floats()
            bars = self.cotangents(jax.eval_shape(self.ruled, *floats), 1)
            plain = quickly(lambda a, bars: jax.vjp(lambda *floats: self._run(floats, removed=True), *a)[1](bars))
            try:
                wanted = plain(floats, bars)
            except CANNOT:  # reverse mode does not go through it: the reference knows what to do then
                return False
            return all(_close(got, want) for got, want in zip(self.pulled(floats, bars), wanted, strict=True))

    def _derivative(self, given: Given) -> list[Leaf]:
        """Each operand's adjoint for the cotangent of `seed`."""
        self._by_rule(*self.floats())
        whole = self.eqn.primitive.name == "shard_map"
        reference = Reference(self._scalar(removed=True), given, self.rule.name, autodiff=not whole)
        returned, remarks = run_by_hand(self._by_rule, given)
        compared = compare_all(reference, returned)
        told = tuple(dict.fromkeys(remarks + reference.notes))
        return [
            leaf._replace(source=self.where, remarks=(*leaf.remarks, *told)) for leaf in explain(compared, reference)
        ]

    def _argument_names(self) -> list[str]:
        params = self.eqn.params
        told = [_walk.opened(params[p])[0].debug_info for p in ("call_jaxpr", "jaxpr") if p in params]
        told += [params["fwd_jaxpr_thunk"].debug_info] if "fwd_jaxpr_thunk" in params else []
        fixed = params.get("num_consts", 0)
        for names in (info.arg_names for info in told):
            if names and len(names) == len(self.sample) - fixed:
                named = [re.sub(r"\['(\w+)'\]", r".\1", names[k - fixed]) or f"args[{k}]" for k, _ in self.at]
                break
        else:
            named = [f"args[{k}]" for k, _ in self.at]
        return [f"{name}.{part}" if part else name for name, (_, part) in zip(named, self.at, strict=True)]

    # What JAX lets pass in silence

    def _traps(self, leaves: list[Leaf], plain: Sequence[Any]) -> list[Leaf]:
        """What is seen with two cotangents, not with one alone."""
        first = self._traps_at(leaves, plain, 3)
        if first == leaves:
            return leaves
        second = {leaf.name: leaf for leaf in self._traps_at(leaves, plain, 5)}
        before = {leaf.name: leaf for leaf in leaves}
        seen = [leaf if second.get(leaf.name) != before.get(leaf.name) else before.get(leaf.name) for leaf in first]
        return [leaf for leaf in seen if leaf is not None]

    def _traps_at(self, leaves: list[Leaf], plain: Sequence[Any], seed: int) -> list[Leaf]:
        floats = self.floats()
        out, pull = jax.vjp(self.ruled, *jax.device_put(floats))
        bars = self.cotangents(out, seed)
        once = pull(jax.device_put(bars))
        leaves = [self._dtype(leaf, v, g) for leaf, v, g in zip(leaves, floats, once, strict=True)]
        leaves = self._linear(leaves, partial(self.pulled, floats), bars)
        leaves += self._value(out, plain)
        leaves += self._same_under("jit", lambda: self.pulled(floats, bars), once)
        leaves += self._same_under("vmap", lambda: self._mapped(floats, bars), once)
        return leaves

    def _dtype(self, leaf: Leaf, value, g) -> Leaf:
        if g.dtype == value.dtype or leaf.verdict == WRONG:
            return leaf
        cause = Cause(
            "shape", f"the gradient has dtype {g.dtype}, its input {value.dtype}: JAX does not convert it", 0.0
        )
        return leaf._replace(verdict=WRONG, causes=(cause, *leaf.causes))

    def _linear(self, leaves, pull, bars) -> list[Leaf]:
        def times(factor):
            return [(factor * b.astype(np.float64)).astype(b.dtype) for b in bars]

        once, zero, thrice, back = (pull(times(factor)) for factor in (1, 0, 3, -1))
        other = pull(self.cotangents(bars, 4))
        narrow = any(b.dtype == jnp.float16 for b in [*bars, *once])
        far = 16.0 if narrow else 2.0**14  # a rule may cut off what is large, or what is small
        large, small = ([np.asarray(g, np.float64) / s for g in pull(times(s))] for s in (far, 1 / far))
        changed = []
        for leaf, z, g, t, m, o, big, little in zip(leaves, zero, once, thrice, back, other, large, small, strict=True):
            z, g, t, m, o = (np.asarray(a, np.float64) for a in (z, g, t, m, o))
            size = float(np.max(np.abs(g[np.isfinite(g)]), initial=0))
            room = 300 * _eps([*self.floats(), *once]) * (size or 1.0)
            cause = None
            if size and np.array_equal(g, o) and np.array_equal(g, t):
                cause = Cause(
                    "factor", "the incoming cotangent is ignored: right for grad of a scalar, wrong in a graph", 0.0
                )
            elif any(bool(np.any(np.abs(d) > room)) for d in (t - 3 * g, m + g, z, big - g, little - g)):
                cause = Cause(
                    "constant" if np.any(np.abs(z) > room) else "factor", "not linear in the incoming cotangent", 0.0
                )
            if cause is not None:
                leaf = leaf._replace(verdict=WRONG, causes=(cause, *leaf.causes))
            changed.append(leaf)
        return changed

    def _value(self, out, plain) -> list[Leaf]:
        worst, at = 0.0, None
        for o, p in zip(out, plain, strict=True):
            o, p = np.asarray(o, np.float64), np.asarray(p, np.float64)
            both = np.isfinite(o) | np.isfinite(p)
            scale = float(np.max(np.abs(p[np.isfinite(p)]), initial=0)) or 1.0
            off = np.where(both, np.where(np.isfinite(o - p), np.abs(o - p), np.inf), 0) / scale
            if off.size and off.max() > worst:
                worst, at = float(off.max()), tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
        eps = _eps(self.floats())
        if worst <= 1000 * eps:
            return []
        cause = Cause(
            "place",
            "the forward rule returns another value than the function: value_and_grad differs from the call",
            0.0,
        )
        return [Leaf(f"{self.rule.name} (value)", WRONG, worst, worst / eps, at, (cause,), source=self.where)]

    def _mapped(self, floats, bars):
        two = [np.stack([f, f]) for f in floats]
        bars = [np.stack([b, b]) for b in bars]
        mapped = jax.vmap(lambda a, b: jax.vjp(self.ruled, *a)[1](b))
        return [np.asarray(g)[1] for g in quickly(mapped)(two, bars)]

    def _same_under(self, what, run, once) -> list[Leaf]:
        if self.eqn.primitive.name == "shard_map":
            return []
        try:
            got = run()
        except Exception:  # not every rule can be mapped; that is no error in its derivative
            return []
        worst = 0.0
        for g, o in zip(got, once, strict=True):
            g, o = np.asarray(g, np.float64), np.asarray(o, np.float64)
            scale = float(np.max(np.abs(o[np.isfinite(o)]), initial=0)) or 1.0
            same = np.isnan(g) & np.isnan(o)
            off = np.where(same, 0, np.abs(g - o))
            worst = max(worst, float(np.max(np.where(np.isnan(off), np.inf, off), initial=0)) / scale)
        eps = _eps(self.floats())
        if worst <= 1000 * eps:
            return []
        cause = Cause("place", f"the rule gives something else under {what}", 0.0)
        return [Leaf(f"{self.rule.name} (under {what})", WRONG, worst, worst / eps, None, (cause,), source=self.where)]


def _parts(dtype: Any) -> tuple[str, ...]:
    """The real numbers that a number of this dtype is of."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "real", "imag"
    return ("",) if jnp.issubdtype(dtype, jnp.floating) else ()


def _close(got: Any, want: Any) -> bool:
    eps = _eps([got, want])
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return bool(np.all(np.abs(got - want) <= 1e3 * eps * np.max(np.abs(want), initial=0)))


def _eps(values: Sequence[Any]) -> float:
    floats = [v for v in values if jnp.issubdtype(v.dtype, jnp.floating)]
    return max((float(jnp.finfo(v.dtype).eps) for v in floats), default=float(np.finfo(np.float64).eps))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
