"""One derivative rule at one set of values: held against the function that it decorates, and tried for traps."""

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._compare import Compared, compare_all
from jaxnets.check._compiled import quickly
from jaxnets.check._flow import Asked
from jaxnets.check._gradient import explain, run_by_hand
from jaxnets.check._moved import Moved
from jaxnets.check._names import Given, is_library
from jaxnets.check._numeric import source
from jaxnets.check._precision import double, narrowest
from jaxnets.check._reference import CANNOT, FULL, Reference
from jaxnets.check._report import KINK, RIGHT, UNDECIDABLE, WRONG, Leaf
from jaxnets.check._solver import Solver
from jaxnets.check._traps import RaisesError, Traps, eps_of


class Found(NamedTuple):
    """A rule as an equation in the caller's precision and, where the program is the same there, in float64."""

    name: str
    eqn: Any
    wide: Any
    place: _walk.Place
    asked: Asked
    moved: Callable[[], Moved]  # which entries of the operands the arguments move
    again: Callable[[], Any]  # the equation traced anew
    within: bool  # another rule's function, which nobody runs where that rule is asked


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


_JUMPS = (
    "undecidable: a loop that ends by its own judgement jumps here, and its steps have no slope to hold this against"
)
_STILL = "off in entries only that no argument moves here, by which nobody differentiates"


class Rule:
    """One rule at one set of values, as a function of its floating operands."""

    def __init__(self, rule: Found, sample: list[np.ndarray]):
        self.rule, self.sample, self.eqn, self.name = rule, sample, rule.eqn, rule.name
        fixed = rule.eqn.params.get("num_consts", 0)  # what the function closes over: JAX gives it no derivative
        # Operands, complex ones as two: their numbers, and which part it is.
        self.at = [(k, part) for k, v in enumerate(sample) if k >= fixed for part in _parts(v.dtype)]
        wanted = zip(rule.eqn.outvars, rule.asked.results, strict=True)
        self.through = [yes for v, yes in wanted for _ in _parts(v.aval.dtype)]  # results that cotangents come through
        self.asked_at_all = any(self.through) and any(rule.asked.operands[k] for k, _ in self.at)
        if not any(self.through):
            self.through = [True] * len(self.through)
        self.counted: list[Any] = self.through  # and of these the entries that are numbers
        self.remarks: list[str] = []
        self.unasked: set[str] = set()  # leaves that were left out, since nobody differentiates by them
        self.seed = 0
        self.pulled = quickly(self.pull)
        self.where = f"{_rule_of(rule.eqn)}met in {_walk.source(rule.eqn)}"

    def floats(self) -> list[np.ndarray]:
        return [getattr(self.sample[k], part) if part else self.sample[k] for k, part in self.at]

    def same(self, i: int) -> list[int]:
        """The operands that are the same array as operand `i`, which is one of them."""
        handed, (mine, part) = self.rule.eqn.invars, self.at[i]
        return [k for k, (j, p) in enumerate(self.at) if p == part and handed[j] is handed[mine]]

    def _operands(self, floats):
        operands = [_walk.as_key(v, a) for v, a in zip(self.eqn.invars, jax.device_put(self.sample), strict=True)]
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
        return self.run(self._equation(floats), floats, removed)

    def run(self, eqn, floats, removed):
        """What its equation gives, complex results as two; with the rule in it or not."""
        operands = self._operands(floats)
        if eqn is self.rule.wide and eqn is not self.eqn:
            # Counts and labels are of another width there too.
            operands = [
                o if jnp.issubdtype(o.dtype, jax.dtypes.prng_key) else jnp.asarray(o, v.aval.dtype)
                for o, v in zip(operands, eqn.invars, strict=True)
            ]
        if removed and "call_jaxpr" in eqn.params:
            out, _ = _walk.run(eqn.params["call_jaxpr"], operands)
        elif removed:
            out = _walk.without_rules(eqn, operands)
        else:
            out = _walk.bind(eqn, operands)
        if len(out) != len(eqn.outvars):  # residuals that differ with what is constant make JAX lose count
            raise RaisesError("JAX cannot bind it again: what it saves differs with what is constant")
        return [getattr(o, part) if part else o for o in out for part in _parts(o.dtype)]

    def ruled(self, *floats):
        return self._run(floats, removed=False)

    def plain(self, *floats):
        return self._run(floats, removed=True)

    def pull(self, floats, bars):
        if not self.forward:
            return jax.vjp(self.ruled, *floats)[1](bars)

        def total(*floats):
            return sum(jnp.sum(jnp.where(b == 0, 0, o * b)) for o, b in zip(self.ruled(*floats), bars, strict=True))

        return jax.jacfwd(total, tuple(range(len(floats))))(*floats)

    def vjp(self, floats):
        """Without `jit`: what its forward rule gives, and what pulls a cotangent back."""
        if not self.forward:
            return jax.vjp(self.ruled, *jax.device_put(floats))
        out, _ = jax.jvp(self.ruled, tuple(jax.device_put(floats)), tuple(map(jnp.zeros_like, floats)))
        return out, partial(self.pull, jax.device_put(floats))

    forward = False  # whether forward mode alone goes through it

    def _only_forward(self) -> bool:
        """Whether reverse mode does not go through a rule for tangents."""
        if self.eqn.primitive.name != "custom_jvp_call" or sum(v.size for v in self.floats()) > FULL:
            return False
        bars = self.cotangents(jax.eval_shape(self.plain, *self.floats()), self.seed)
        seen = []
        for self.forward in (False, True):
            try:
                seen.append(bool(jax.eval_shape(self.pull, self.floats(), bars)))
            except Exception:  # a rule may refuse in its own words, which are told when it is judged
                seen.append(False)
        self.forward = False
        return seen == [False, True]

    def cotangents(self, out, seed):
        """None for what nobody takes up, nor for what is no number."""
        rng = source(seed)
        drawn = [np.asarray(rng.normal(size=o.shape), o.dtype) for o in out]
        return [np.where(yes, bar, 0).astype(bar.dtype) for bar, yes in zip(drawn, self.counted, strict=True)]

    def _scalar(self, removed):
        def f(*floats):
            out = self._run(floats, removed)
            dtype = jnp.float64 if any(o.dtype == jnp.float64 for o in out) else jnp.float32
            bars = self.cotangents(out, self.seed)
            # Summed wide, so that only the rule's own rounding is seen.
            return sum(
                (
                    jnp.sum(jnp.where(b == 0, 0, o.astype(dtype) * b.astype(dtype)))
                    for o, b, yes in zip(out, bars, self.through, strict=True)
                    if yes
                ),
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
        plain = quickly(self.plain)(*self.floats())
        if not plain:
            return []
        self.counted = [yes & np.isfinite(np.asarray(o)) for o, yes in zip(plain, self.through, strict=True)]
        if not any(np.any(yes) for yes in self.counted):
            raise RaisesError("its own value is not finite where it is met: there is no derivative to test")
        self.forward = self._only_forward()
        leaves = self._judged(plain)
        if not all(np.all(yes) for yes, taken in zip(self.counted, self.through, strict=True) if taken):
            # Nor need the truth be a number there.
            self.remarks.append(f"{self.rule.name}: its own value is not finite in places: judged by the others")
            leaves = [leaf for leaf in leaves if leaf.verdict != UNDECIDABLE] or leaves
        if not all(self.through):
            some = f"{self.through.count(False)} of its {len(self.through)} results"
            self.remarks.append(f"{self.rule.name}: nobody differentiates {some} here: judged through the others")
        return self._of_whom_it_is_asked(leaves)

    def _of_whom_it_is_asked(self, leaves: list[Leaf]) -> list[Leaf]:
        """Without those that are not right of operands that nobody differentiates by, which are told apart."""
        names = {name for i, name in enumerate(self._names()) if not self.is_asked(i)}
        doubtful = any(leaf.verdict in (WRONG, UNDECIDABLE) for leaf in leaves)
        if doubtful and self.asked_at_all:
            self.asked_at_all = self.rule.moved().taken_up(self.rule.place)
        others = [leaf for leaf in leaves if leaf.name in names] if self.asked_at_all else leaves
        self.unasked = {leaf.name for leaf in others if leaf.verdict in (WRONG, UNDECIDABLE)}
        return [leaf for leaf in leaves if leaf.name not in self.unasked]

    def is_asked(self, i: int) -> bool:
        return self.asked_at_all and self.rule.asked.operands[self.at[i][0]]

    def _judged(self, plain: Sequence[Any]) -> list[Leaf]:
        given = Given(self.ruled, self.floats(), None)
        given.leaves = [(name, v) for name, (_, v) in zip(self._names(), given.leaves, strict=True)]
        leaves = self._derivative(given)
        if all(leaf.verdict == RIGHT for leaf in leaves) and not self._right_for_another():
            self.seed = 1
            leaves = self._derivative(given)
        return Traps(self).found(leaves, plain)

    def _right_for_another(self) -> bool:
        """Whether another cotangent has the right adjoints too, as far as a glance shows."""
        if self.eqn.primitive.name == "shard_map":
            return True
        wide = self.rule.wide is not None
        with double() if wide else contextlib.nullcontext():
            floats = [v.astype(np.float64) for v in self.floats()] if wide else self.floats()
            bars = self.cotangents(jax.eval_shape(self.ruled, *floats), 1)
            plain = quickly(lambda a, bars: jax.vjp(self.plain, *a)[1](bars))
            try:
                wanted = plain(floats, bars)
            except CANNOT:  # reverse mode does not go through it: the reference knows what to do then
                return False
            return all(_close(got, want) for got, want in zip(self.pulled(floats, bars), wanted, strict=True))

    def _derivative(self, given: Given) -> list[Leaf]:
        """Each operand's adjoint for the cotangent of `seed`."""
        self._by_rule(*self.floats())
        reference = Reference(self._scalar(removed=True), given, self.rule.name)
        returned, remarks = run_by_hand(self._by_rule, given)
        compared = self._excused(compare_all(reference, returned), bool(reference.kinks()[1]))
        told = tuple(dict.fromkeys(remarks + reference.notes))
        return [
            leaf._replace(source=self.where, remarks=(*leaf.remarks, *told)) for leaf in explain(compared, reference)
        ]

    def _excused(self, compared: list[Compared], kinks_met: bool) -> list[Compared]:
        """Without what is wrong of itself only: it is right in sum, right but for a tolerance, or of no use here. And a
        loop that ends by its own judgement may jump: slopes from both sides that differ are no sign of a kink then."""
        changed = []
        for i, c in enumerate(compared):
            if c.verdict == WRONG and not self.is_asked(i):
                c = c._replace(verdict=UNDECIDABLE)  # and left out in the end
            elif c.verdict == WRONG and self._stands_still(c, i):
                c = c._replace(verdict=RIGHT, error=0.0, remarks=(_STILL,))
            elif c.verdict == WRONG and (told := self._in_sum(compared, i)):
                c = c._replace(verdict=RIGHT, error=0.0, remarks=(told,))
            elif c.verdict == WRONG and (seen := self.solver.excuse(self.precise()[1], i)):
                c = c._replace(verdict=RIGHT, error=seen.before, remarks=(str(seen),))
            elif c.verdict == KINK and not kinks_met and self.solver.loops:
                seen = self.solver.excuse(self.precise()[1], i)
                verdict, told = (RIGHT, str(seen)) if seen else (UNDECIDABLE, _JUMPS)
                c = c._replace(verdict=verdict, error=seen.before if seen else c.error, remarks=(told,))
            changed.append(c)
        return changed

    def _in_sum(self, compared: list[Compared], i: int) -> str:
        """One array that comes in as several operands, with its derivative given to one of them, as by a solver that
        is handed an equation and a way to solve it."""
        same = [compared[k] for k in self.same(i)]
        if len(same) == 1 or any(c.got is None or c.want is None for c in same):
            return ""
        given_to = [c for c in same if np.any(c.got)]
        sums = [np.sum([getattr(c, which) for c in same], 0) for which in ("got", "want")]
        if len(given_to) > 1 or not np.all(np.abs(sums[0] - sums[1]) <= sum(c.limit for c in same)):
            return ""
        return f"right in sum: {' and '.join(c.name for c in same)} are one array, of which one gets it all"

    def _stands_still(self, c: Compared, i: int) -> bool:
        """Whether it is off in entries only that no argument moves, as in a loop's buffer that is filled later."""
        k, part = self.at[i]
        if c.got is None or c.want is None or part:
            return False
        moves = self.rule.moved().at(self.rule.place, self.sample)
        if moves is None:
            return False
        still = ~moves[sum(_walk.is_float(v) for v in self.sample[:k])]
        return bool(np.all(np.isfinite(c.got) & (still | (np.abs(c.got - c.want) <= c.limit))))

    def precise(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Operands and cotangents as precise as the rule can take them."""
        wide = self.rule.wide is not None
        with double() if wide else contextlib.nullcontext():
            floats = [v.astype(np.float64) for v in self.floats()] if wide else self.floats()
            return floats, self.cotangents(jax.eval_shape(self.ruled, *floats), self.seed)

    @cached_property
    def eps(self) -> float:
        """Of the narrowest float that it computes with."""
        floats = self.floats()
        bars = self.cotangents(jax.eval_shape(self.ruled, *floats), self.seed)
        programs = _walk.trace(self.plain, *floats), _walk.trace(self.pull, floats, bars)
        return max(eps_of(floats), *map(narrowest, programs))

    @cached_property
    def solver(self) -> Solver:
        """The rule as one of a solver, which is asked what its loops tolerate."""
        return Solver(self.plain, self.pull, *self.precise())

    def _names(self) -> list[str]:
        return [f"{self.rule.name}.{name}" for name in self._argument_names()]

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


def _parts(dtype: Any) -> tuple[str, ...]:
    """The real numbers that a number of this dtype is of."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "real", "imag"
    return ("",) if jnp.issubdtype(dtype, jnp.floating) else ()


def _close(got: Any, want: Any) -> bool:
    eps = eps_of([got, want])
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return bool(np.all(np.abs(got - want) <= 1e3 * eps * np.max(np.abs(want), initial=0)))
