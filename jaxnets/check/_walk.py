"""Running a traced program equation by equation, without the derivative rules in it.

`jax.make_jaxpr` turns a function into equations. Here they are run again, one by one, in a traceable way: what stands
under `jit`, `remat` and in rules is run in place (so a `custom_vjp` or `custom_jvp` function is its plain forward pass,
and autodiff through it is autodiff without the rule); `scan`, `cond` and `while` are rebuilt around what they hold.

At every other equation a visitor may do something else than the equation says (and, if it has the methods, watch rules
being entered and left, change constants and what a scan carries, and bound how often a `while` goes round). Every
equation has a *place*: the numbers of the equations around it and its own. A visitor can be given an array for a place
(inside a scan one row per step, outermost scan first) and can give one back; that is how probes go in and values come
out.
"""

import linecache
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import source_info_util  # no public way leads from an equation to the line that made it
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.extend.core import Literal as Literal

Place = tuple[int, ...]
# visit(place, equation, operands, given) -> results, to hand out (None: nothing)
Visit = Callable[[Place, Any, list[Any], Any], tuple[list[Any], Any]]

# Primitives that only hold a program, with the parameter that holds it.
_INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
}
CARRY = -1  # the place, within a scan's, where its carry enters a step
RULES = ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call")


class Site(NamedTuple):
    """An equation that is run, where it stands, and the lengths of the scans around it, outermost first."""

    place: Place
    eqn: Any
    lengths: tuple[int, ...]
    looped: bool  # inside a while loop, where nothing can be put in or taken out
    rules: tuple[Any, ...]  # the custom rules around it, outermost first
    loop: Place  # the innermost scan around it, () where there is none


def trace(f: Callable[..., Any], *args: Any) -> Any:
    """The program of `f` at these arguments."""
    return jax.make_jaxpr(f)(*args)


def opened(closed: Any) -> tuple[Any, Any]:
    """A program and its constants, whether it came closed or open."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many operands of a scan are constants and how many are carried."""
    if "ft_in" in eqn.params:  # JAX 0.11 and later
        consts, carry, _ = eqn.params["ft_in"].unpack()
        return len(consts), len(carry)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def inner(eqn: Any) -> list[tuple[int | None, Any]]:
    """The programs that an equation holds and that are walked into: (number of the branch or None, program)."""
    name = eqn.primitive.name
    if name in _INLINE:
        return [(None, eqn.params[_INLINE[name]])]
    if name == "scan":
        return [(None, eqn.params["jaxpr"])]
    if name == "while":
        return [(0, eqn.params["cond_jaxpr"]), (1, eqn.params["body_jaxpr"])]
    if name == "cond":
        branches, k = eqn.params["branches"], _of_this_platform(eqn)
        return list(enumerate(branches)) if k is None else [(k, branches[k])]
    return []


def _of_this_platform(eqn: Any) -> int | None:
    """Of a choice by platform (`lax.platform_dependent`), the branch of this one: others need not lower here, as a
    kernel of a GPU's. None where the choice is one of values."""
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return None
    here = {"gpu": {"gpu", "cuda", "rocm"}}.get(jax.default_backend(), {jax.default_backend()})
    named = [k for k, names in enumerate(platforms) if here & set(names or ())]
    return named[0] if named else platforms.index(None)


def sites(closed: Any, *, holders: bool = False) -> Iterator[Site]:
    """Every equation that is run, in the order of the program; with `holders` also those that hold programs."""
    yield from _sites(opened(closed)[0], (), (), False, (), (), holders)


def _sites(jaxpr, place, lengths, looped, rules, loop, holders):
    for i, eqn in enumerate(jaxpr.eqns):
        here, name = (*place, i), eqn.primitive.name
        programs = inner(eqn)
        if holders or not programs:
            yield Site(here, eqn, lengths, looped, rules, loop)
        steps = (*lengths, eqn.params["length"]) if name == "scan" else lengths
        around = (*rules, eqn) if name in RULES else rules
        for branch, program in programs:
            below = here if branch is None else (*here, branch)
            within = here if name == "scan" else loop
            yield from _sites(opened(program)[0], below, steps, looped or name == "while", around, within, holders)


def unread(closed: Any) -> list[str]:
    """What holds rules and is not read, but run and differentiated as it is: hijax primitives, of which `custom_vjp`
    may be made too (JAX 0.11 and later), and others that hold programs, as a linear solver holds its product."""
    return [
        *(f"the rule of {source(s.eqn)}, a hijax primitive" for s in sites(closed, holders=True) if _is_hijax(s.eqn)),
        *(f"the rules in {source(eqn)}" for eqn, _ in shut(closed)),
    ]


def _is_hijax(eqn: Any) -> bool:
    return "_prim" in eqn.params


def shut(closed: Any) -> list[tuple[Any, list[Any]]]:
    """The equations that hold programs which are not walked into, and the rules in these, if there are any."""
    held = [
        (s.eqn, list(_rules_held(s.eqn)))
        for s in sites(closed, holders=True)
        if not inner(s.eqn) and not _is_hijax(s.eqn) and s.eqn.primitive.name not in _LOOPS
    ]
    return [each for each in held if each[1]]


def _rules_held(eqn: Any) -> Iterator[Any]:
    for program in _held(eqn.params):
        for e in opened(program)[0].eqns:
            if e.primitive.name in RULES:
                yield e
            yield from _rules_held(e)


def _held(value: Any) -> Iterator[Any]:
    """The programs within an equation's parameters."""
    if isinstance(value, Jaxpr | ClosedJaxpr):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _held(part)


def stops_within(eqn: Any) -> bool:
    """Whether `stop_gradient` stands anywhere in the programs that an equation holds."""
    return any(
        e.primitive.name == "stop_gradient" or stops_within(e)
        for program in _held(eqn.params)
        for e in opened(program)[0].eqns
    )


def unused_marks(closed: Any) -> set[str]:
    """The names of marks whose result nothing takes up."""
    jaxpr = opened(closed)[0]
    taken = {v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal)}
    taken |= {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "name" and eqn.outvars[0] not in taken:
            found.add(eqn.params["name"])
        for _, program in inner(eqn):
            found |= unused_marks(program)
    return found


def plain(place: Place, eqn: Any, operands: list[Any], given: Any) -> tuple[list[Any], Any]:
    """The visitor that does what the equation says."""
    del place, given
    return bind(eqn, operands), None


def bind(eqn: Any, operands: list[Any]) -> list[Any]:
    """The equation's results; traced again, it keeps the source line that it came from."""
    with source_info_util.user_context(eqn.source_info.traceback), eqn.ctx.manager:
        out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def run(closed: Any, args: list[Any], visit: Visit = plain, given: dict[Place, Any] | None = None):
    """Run a program: its results, and what the visitor handed out, by place."""
    jaxpr, consts = opened(closed)
    return _run(jaxpr, consts, args, visit, given or {}, ())


def _run(jaxpr, consts, args, visit, given, place):
    constant = getattr(visit, "constant", lambda value: value)
    literal = getattr(visit, "literal", lambda place, k, value: value)
    values = dict(zip(jaxpr.constvars, map(constant, consts), strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    handed: dict[Place, Any] = {}

    def read(v):
        return v.val if isinstance(v, Literal) else values[v]

    for i, eqn in enumerate(jaxpr.eqns):
        here = (*place, i)
        operands = [literal(here, k, v.val) if isinstance(v, Literal) else values[v] for k, v in enumerate(eqn.invars)]
        name = eqn.primitive.name
        if name in _INLINE:
            if name in RULES and hasattr(visit, "entering"):
                visit.entering(here, eqn, operands)
            program, inside = opened(eqn.params[_INLINE[name]])
            out, got = _run(program, inside, operands, visit, given, here)
            if name in RULES and hasattr(visit, "leaving"):
                out = visit.leaving(here, operands, out)
            handed |= got
        elif name in _LOOPS:
            out, got = _LOOPS[name](eqn, operands, visit, _below(given, here), here)
            handed |= got
        else:
            out, got = visit(here, eqn, operands, given.get(here))
            if got is not None:
                handed[here] = got
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in jaxpr.outvars], handed


def _below(given, here):
    return {place: value for place, value in given.items() if place[: len(here)] == here}


def _scan(eqn, operands, visit, given, here):
    n_consts, n_carry = scan_counts(eqn)
    consts, carry, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
    program, inside = opened(eqn.params["jaxpr"])

    at_entry, carried = (*here, CARRY), getattr(visit, "carried", lambda carry, given: carry)

    def step(carry, row):
        x, given_now = row
        if at_entry in given_now:
            carry = carried(carry, given_now[at_entry])
        out, handed = _run(program, inside, [*consts, *carry, *x], visit, given_now, here)
        return out[:n_carry], (out[n_carry:], handed)

    length, reverse = eqn.params["length"], eqn.params["reverse"]
    carry, (ys, handed) = lax.scan(step, carry, (xs, given), length=length, reverse=reverse)
    return [*carry, *ys], handed


def _cond(eqn, operands, visit, given, here):
    index, operands = operands[0], operands[1:]
    if (k := _of_this_platform(eqn)) is not None:
        jaxpr, inside = opened(eqn.params["branches"][k])
        return _run(jaxpr, inside, operands, visit, given, (*here, k))

    def branch(k, program):
        def taken(operands):
            jaxpr, inside = opened(program)
            return _run(jaxpr, inside, operands, visit, given, (*here, k))

        return taken

    # Traced once each, since what is nested in them would else be traced twice at every level.
    traced = [
        jax.make_jaxpr(branch(k, program), return_shape=True)(operands)
        for k, program in enumerate(eqn.params["branches"])
    ]
    handed: dict[Place, Any] = {}  # by every branch together: those not taken hand out zeros
    for _, (_, got) in traced:
        handed |= got
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), handed)

    def padded(program, shape):
        def taken(operands):
            out, got = jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(program)(*operands))
            return out, zeros | got

        return taken

    return lax.switch(index, [padded(*each) for each in traced], operands)


def _while(eqn, operands, visit, given, here):
    del given
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    for_cond, for_body, start = operands[:n_cond], operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
    (test, test_consts), (body, body_consts) = opened(eqn.params["cond_jaxpr"]), opened(eqn.params["body_jaxpr"])
    most = getattr(visit, "most", None)

    def goes_on(now):
        """Of each example, where the loop is mapped over several."""
        return _run(test, test_consts, [*for_cond, *now], visit, {}, (*here, 0))[0][0]

    def once_more(state):
        turns, now = state
        new = _run(body, body_consts, [*for_body, *now], visit, {}, (*here, 1))[0]
        if test.outvars[0].aval.shape:  # an example that has come to its end stays as it is
            going = goes_on(now)
            axes = tuple(range(going.ndim))
            ends = [lax.broadcast_in_dim(~going, a.shape, axes) for a in new]
            new = [lax.select_n(end, a, b) for end, a, b in zip(ends, new, now, strict=True)]
        return turns + 1, new

    def any_goes_on(state):
        turns, now = state
        return jnp.any(goes_on(now)) if most is None else jnp.any(goes_on(now)) & (turns < most)

    turns, end = lax.while_loop(any_goes_on, once_more, (0, start))
    if hasattr(visit, "turned"):
        visit.turned(here, turns)
    return list(end), {}


def _shard_map(eqn, operands, visit, given, here):
    """Without the rules in it, if there are any; nothing is put in or handed out."""
    del given
    if hasattr(visit, "entering"):
        visit.entering(here, eqn, operands)
    p = eqn.params
    if not any(s.eqn.primitive.name in RULES for s in sites(p["jaxpr"], holders=True)):
        return bind(eqn, operands), {}
    program, inside = opened(p["jaxpr"])
    mapped = jax.shard_map(
        lambda *args: tuple(_run(program, inside, list(args), plain, {}, ())[0]),
        mesh=p["mesh"],
        in_specs=tuple(p["in_specs"]),
        out_specs=tuple(p["out_specs"]),
        axis_names=set(p["newly_manual_axes"] if "newly_manual_axes" in p else p["manual_axes"]),  # by version
        check_vma=p["check_vma"],
    )
    return list(mapped(*operands)), {}


_LOOPS = {"scan": _scan, "cond": _cond, "while": _while, "shard_map": _shard_map}


def line_of(eqn: Any) -> tuple[str, int] | None:
    """File and number of the source line that made an equation; not a line of this package's own."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if os.path.dirname(frame.file_name) != _HERE:
            return frame.file_name, frame.start_line
    return None


def function_of(eqn: Any) -> str | None:
    """The name of the function in which an equation was made, or None if it is not known."""
    frame = next(iter(source_info_util.user_frames(eqn.source_info.traceback)), None)
    return frame and frame.function_name.rpartition(".")[2]


_HERE = os.path.dirname(__file__)


def as_key(v: Any, value: Any) -> Any:
    """The numbers of a random key as the key that this variable is of; anything else as it is."""
    if not jnp.issubdtype(v.aval.dtype, jax.dtypes.prng_key):
        return value
    return jax.random.wrap_key_data(value, impl=v.aval.dtype._impl.name)


def without_rules(eqn: Any, operands: list[Any]) -> list[Any]:
    """What a `shard_map` gives without the rules in it."""
    return _shard_map(eqn, operands, plain, None, ())[0]


def is_float(x: Any) -> bool:
    """Is this array, variable or shape of floating numbers?"""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        dtype = getattr(getattr(x, "aval", None), "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def source(eqn: Any) -> str:
    """An equation by the source line that made it."""
    where = line_of(eqn)
    if not where:
        return eqn.primitive.name
    line, file = linecache.getline(*where).strip(), os.path.basename(where[0])
    short = line if len(line) <= 60 else line[:57] + "…"
    return f"`{short}` ({eqn.primitive.name}, {file} line {where[1]})"
