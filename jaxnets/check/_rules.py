"""`check.rules`: every `custom_vjp` and `custom_jvp` rule that a function meets, at the values that it meets."""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._applied import Applied, applied
from jaxnets.check._flow import asked
from jaxnets.check._gradient import drawn
from jaxnets.check._moved import Moved, is_parameter
from jaxnets.check._names import call, frames_of, fresh, is_key
from jaxnets.check._precision import as_float64, double
from jaxnets.check._progress import progress
from jaxnets.check._report import KINK, RIGHT, UNDECIDABLE, WRONG, Cause, Leaf, Report
from jaxnets.check._rule import Found, Rule
from jaxnets.check._traps import RaisesError

_SAMPLES = 3  # of the values that a rule meets in a loop
_DEPTH = 3  # rules within rules
_WRAPPERS = ("wrapped_fun", "fn_wrapped")  # jax.custom_gradient's and Equinox's: what they wrap is meant
_WORSE = {RIGHT: 0, KINK: 1, UNDECIDABLE: 2, WRONG: 3}


def rules(
    f: Callable[..., Any], args: Sequence[Any] | Callable[[], Sequence[Any]], *, allow: Collection[str] = ()
) -> Report:
    """Find every derivative rule that `f(*args)` meets, and test each at the values that it really meets.

    Rules are found under `jit`, `scan`, `while`, `cond`, `vmap`, `remat`, `shard_map`, inside other rules, and under a
    `grad`, `jvp` or `vjp` of the function's own. Each is held against autodiff of the function that it decorates, and
    tested for what JAX lets pass in silence. A rule that is meant to be something else than the derivative is named in
    `allow`. What `f` never differentiates by, such as a constant operand, is told and not judged; a solver's rule is
    right within the solver's tolerance.

    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, bar: (x * bar,))  # 2 is missing
    >>> report = rules(lambda x: jax.lax.scan(lambda h, _: (square(h), None), x, length=3)[0], (1.5,))
    >>> report.first, report["square.x"].causes[0].kind
    ('square.x', 'path')
    """
    values: Sequence[Any] = drawn(args)
    allow = (allow,) if isinstance(allow, str) else allow
    with applied() as calls:
        call("f", f, *fresh(values))
    audit = _Audit(allow)
    try:
        audit.function(f, values)
        for one in calls:
            audit.applied(one)
    except jax.errors.JAXTypeError as error:
        where = next(frames_of(error), None)
        line = f" ({type(error).__name__} at line {where.lineno})" if where else f" ({type(error).__name__})"
        raise TypeError(
            f"check.rules: f cannot be traced by JAX{line}: NumPy code has no rules; check.gradient judges it"
        ) from error
    met_elsewhere = [t for t, eqns in audit.shut.items() if {_written_at(e) for e in eqns} <= audit.sources]
    audit.unread = [told for told in audit.unread if told not in met_elsewhere]
    leaves = list(audit.leaves.values())
    unasked = sorted({name for key, name in audit.unasked.items() if key not in audit.judged})
    remarks = list(dict.fromkeys(audit.remarks)) + [
        f"{name}: nobody differentiates by it here: not judged" for name in unasked
    ]
    if not audit.names and not audit.not_met and not audit.unread:
        remarks.append("no custom_vjp or custom_jvp rule was met")
    if unknown := set(allow) - audit.names:
        remarks.append(f"allow names {', '.join(sorted(unknown))}, which is no rule that was found")
    name = getattr(f, "__name__", "f")
    return Report(
        f"rules met by {name}",
        leaves,
        remarks,
        audit.not_met,
        "autodiff of the decorated functions, in float64; differences",
        audit.unread,
    )


def _function_of(eqn: Any) -> Any:
    """The program of the decorated function."""
    return _walk.opened(eqn.params["jaxpr" if eqn.primitive.name == "shard_map" else "call_jaxpr"])[0]


def name_of(eqn: Any) -> str:
    """The name of the decorated function."""
    jaxpr = _function_of(eqn)
    if eqn.primitive.name == "shard_map":
        inside = [name_of(s.eqn) for s in _rules_in(jaxpr)]
        return f"shard_map of {', '.join(dict.fromkeys(inside))}"
    name = jaxpr.debug_info.func_name
    return next(filter(None, map(_walk.function_of, jaxpr.eqns)), name) if name in _WRAPPERS else name


def _written_at(eqn: Any) -> str | None:
    """Where the decorated function stands."""
    return _function_of(eqn).debug_info.func_src_info


def _rules_in(program: Any) -> list[_walk.Site]:
    found = []
    for s in _walk.sites(program, holders=True):
        if s.eqn.primitive.name in _walk.RULES or (
            s.eqn.primitive.name == "shard_map" and _rules_in(s.eqn.params["jaxpr"])
        ):
            found.append(s)
    return found


class _Watch:
    """A visitor that keeps a sample of the values with which each rule is entered."""

    def __init__(self):
        self.met: dict[_walk.Place, list[list[np.ndarray]]] = {}
        self.counts: dict[_walk.Place, int] = {}
        self.random, self.lock = random.Random(0), threading.Lock()

    def __call__(self, place, eqn, operands, given):
        return _walk.bind(eqn, operands), None

    def entering(self, place, eqn, operands):
        jax.debug.callback(lambda *values: self._keep(place, values), *operands)

    def _keep(self, place, values):
        """The first, the one of the largest numbers, and one of the others at random."""
        values = [np.array(v) for v in values]
        with self.lock:
            kept = self.met.setdefault(place, [])
            count = self.counts[place] = self.counts.get(place, 0) + 1
            if len(kept) < _SAMPLES:
                kept.append(values)
            elif _largest(values) > _largest(kept[1]):
                kept[1] = values
            elif self.random.randrange(count) < 1:
                kept[2] = values


def _largest(values: list[np.ndarray]) -> float:
    return max((float(np.max(np.abs(v), initial=0)) for v in values if _walk.is_float(v)), default=0.0)


def _identity(eqn: Any) -> tuple[Any, ...]:
    """What makes a rule that rule: its functions, which two rules of one factory do not share. Where JAX wraps them
    anew for each call (`custom_jvp`), the equation itself."""
    functions = [getattr(eqn.params.get(p), "f", None) for p in ("fwd_jaxpr_thunk", "bwd")]
    own = functions if all(functions) else [_ByIdentity(eqn)]
    return (*own, str(eqn.params.get("call_jaxpr")))


class _ByIdentity:
    """Equal to itself alone; keeps what it holds, so that nothing else comes to stand at its address."""

    def __init__(self, held: Any):
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.held is self.held


class _Audit:
    def __init__(self, allow: Collection[str]):
        self.allow = set(allow)
        self.leaves: dict[str, Leaf] = {}
        self.not_met: list[str] = []
        self.remarks: list[str] = []
        self.unread: list[str] = []
        self.names: set[str] = set()  # of all rules that were found
        self.unasked: dict[tuple[Any, ...], str] = {}  # leaves by which nobody differentiates, by rule and name
        self.judged: set[tuple[Any, ...]] = set()  # likewise those that were judged
        self.shut: dict[str, list[Any]] = {}  # rules in what is not walked into, some of which are met elsewhere
        self.sources: set[str | None] = set()  # where their functions are written
        self.seen: set[tuple[Any, ...]] = set()

    def function(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        around: tuple[Any, ...] = (),
        taken_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """Test the rules that a function meets, for what it asks of them; `around` it are those whose rule it is, the
        last of which may be `taken_up` or not."""
        leaves, structure = jax.tree.flatten(tuple(args))
        kinds = jax.Array | np.ndarray | float | np.generic
        arrays = [k for k, leaf in enumerate(leaves) if isinstance(leaf, kinds) and not is_key(leaf)]

        def flat(*values):
            full = list(leaves)
            for k, value in zip(arrays, values, strict=True):
                full[k] = value
            return f(*jax.tree.unflatten(structure, full))

        values = [leaves[k] for k in arrays]
        program = _walk.trace(flat, *jax.device_put(values))
        self.unread += [told for told in _walk.unread(program) if told not in self.unread]
        self.shut |= {f"the rules in {_walk.source(eqn)}": inside for eqn, inside in _walk.shut(program)}
        found = self._matched(program, flat, values, taken_up)
        self.names |= {rule.name for rule in found}
        self.sources |= {_written_at(rule.eqn) for rule in found}
        if not found:
            return
        watch = _Watch()
        out = jax.jit(lambda *values: _walk.run(program, list(values), watch)[0])(*jax.device_put(values))
        jax.block_until_ready(out)
        jax.effects_barrier()
        for rule in progress(found, "testing rules"):
            samples = watch.met.get(rule.place, [])
            if not samples:
                where = _walk.source(rule.eqn)
                self.not_met.append(f"{rule.name}: not met at these arguments, called in {where}")
            if (count := watch.counts.get(rule.place, 0)) > _SAMPLES:
                self.remarks.append(f"{rule.name}: met {count} times here, and judged at {_SAMPLES} of them")
            for sample in samples:
                self._test(rule, sample, around)

    def applied(self, one: Applied) -> None:
        """Test a rule that the function differentiates itself, by what it does so, if it has not been met there."""
        for sample in one.samples:
            function, given = one.of_those(sample)
            try:
                met = _rules_in(_walk.trace(function, *given))
                if not {_written_at(s.eqn) for s in met} <= self.sources:
                    self.function(function, given)
            except jax.errors.JAXTypeError as error:  # it closes over something that is traced
                self.remarks.append(f"a rule that f differentiates itself was not looked at ({type(error).__name__})")

    def _matched(self, program, flat, values, taken_up) -> list[Found]:
        """The rules of a program, each with the same rule of the program in float64, if there is one."""
        own = _rules_in(program)
        wide: list[Any] = []
        if own:
            with double():
                try:
                    at_wide = _walk.trace(flat, *[jax.device_put(as_float64(np.asarray(v))) for v in values])
                    wide = [s.eqn for s in _rules_in(at_wide)]
                except Exception as error:  # it is fixed to its precision: the rules are judged in that
                    self.remarks.append(
                        f"f does not run in float64 ({type(error).__name__}): judged in its own precision"
                    )
        if [name_of(eqn) for eqn in wide] != [name_of(s.eqn) for s in own]:
            wide = [None] * len(own)
        wide = [b if b and len(a.eqn.invars) == len(b.invars) else None for a, b in zip(own, wide, strict=True)]
        of_each = asked(program, is_parameter)
        of_entries = cache(lambda: Moved(program, values, taken_up))

        def again(place):
            traced = _walk.trace(flat, *jax.device_put(values))
            return next(s.eqn for s in _rules_in(traced) if s.place == place)

        return [
            Found(
                name_of(s.eqn),
                s.eqn,
                eqn,
                s.place,
                of_each[s.place],
                of_entries,
                partial(again, s.place),
                bool(s.rules),
            )
            for s, eqn in zip(own, wide, strict=True)
        ]

    def _test(self, rule: Found, sample: list[np.ndarray], around: tuple[Any, ...]) -> None:
        asked_of = (*rule.asked.operands, None, *rule.asked.results)
        key = (_identity(rule.eqn), asked_of, *((v.shape, str(v.dtype), v.tobytes()) for v in sample))
        if key in self.seen:
            return
        self.seen.add(key)
        judged = Rule(rule, sample)
        try:
            with np.errstate(all="ignore"):  # what is no number is compared like any other
                leaves = judged.judge()
        except jax.errors.JaxRuntimeError as error:  # it refuses a cotangent as it runs, as by a callback
            told = f"{rule.name}: {RaisesError(error)}"
            self.not_met += [told] * (told not in self.not_met)
            return
        except RaisesError as raised:
            if not raised.meant:
                cause = Cause("shape", f"no gradient came back: it {raised}", float("inf"))
                where = f"met in {_walk.source(rule.eqn)}"
                broken = Leaf(rule.name, WRONG, float("inf"), float("inf"), None, (cause,), source=where)
                self.leaves.setdefault(rule.name, broken)
            elif (told := f"{rule.name}: {raised}") not in self.not_met:
                self.not_met.append(told)
                if raised.traced and not around and not rule.within:
                    self.unread.append(f"the rule of {rule.name}, which closes over what is traced")
            return
        self.remarks += judged.remarks
        which = _identity(rule.eqn)
        self.unasked |= {(which, name): name for name in judged.unasked}
        self.judged |= {(which, leaf.name) for leaf in leaves}
        for leaf in leaves:
            if rule.name in self.allow:
                leaf = leaf._replace(verdict=RIGHT, causes=(), remarks=("deliberately not the derivative: allowed",))
            before = self.leaves.get(leaf.name)
            if before is None or (_WORSE[leaf.verdict], leaf.error) > (_WORSE[before.verdict], before.error):
                self.leaves[leaf.name] = leaf
        own = (rule.name, _written_at(rule.eqn))
        # What differentiates itself, as a solver of its own adjoint equation does, is looked into once.
        closed = rule.name in self.allow or judged.forward or not judged.asked_at_all
        if len(around) < _DEPTH and own not in around and not closed:
            self._inside(judged, (*around, own))

    def _inside(self, one: Rule, around: tuple[Any, ...]) -> None:
        """Rules that the forward and backward functions of this rule meet themselves."""
        rule = one.rule

        floats = one.floats()
        # What comes in several times is one array in there too.
        first = [one.same(k)[0] for k in range(len(floats))]
        asked_of = sorted({k for k, (operand, _) in zip(first, one.at, strict=True) if rule.asked.operands[operand]})

        def backward(given, bars):
            known = dict(enumerate(floats)) | dict(zip(asked_of, given, strict=True))
            out, pull = jax.vjp(one.ruled, *(known[k] for k in first))
            # Cotangents come through the results that somebody takes up, in the precision that these have.
            came = [
                b.astype(o.dtype) if yes else jnp.zeros_like(o)
                for o, b, yes in zip(out, bars, one.through, strict=True)
            ]
            return [o for o, yes in zip(out, one.through, strict=True) if yes], pull(came)

        try:
            bars = one.cotangents(jax.eval_shape(one.ruled, *floats), 1)
            given = jax.device_put([floats[k] for k in asked_of])
            self.function(backward, (given, jax.device_put(bars)), around, lambda: rule.moved().taken_up(rule.place))
        except RaisesError:
            pass
        except (jax.errors.JAXTypeError, jax.errors.JaxRuntimeError) as error:
            # It has been judged itself; what it calls cannot be looked at, or refuses this cotangent as it runs.
            self.remarks.append(
                f"{rule.name}: rules within its backward pass were not looked for ({type(error).__name__})"
            )
