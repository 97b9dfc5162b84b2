"""`check.gradient`: a gradient function beside the function that it belongs to."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.check import _inputs, _walk
from jaxnets.check._board import Board
from jaxnets.check._causes import find
from jaxnets.check._compare import Compared, Returned, compare_all, misfit
from jaxnets.check._names import Given, call, fresh, is_floating, match
from jaxnets.check._numeric import EPS
from jaxnets.check._precision import as_float64, double, narrowest
from jaxnets.check._reference import Reference
from jaxnets.check._report import WRONG, CallerError, Leaf, Report
from jaxnets.check._wrong import Context, Size, Wrong, sizes_of


def gradient(
    f: Callable[..., Any],
    by_hand: Callable[..., Any],
    args: Sequence[Any] | Callable[[], Sequence[Any]],
    argnums: int | Sequence[int] | None = 0,
) -> Report:
    """Check the hand-written gradients `by_hand(*args)` of the scalar function `f(*args)`.

    `argnums` says by which arguments `by_hand` differentiates: a number, several, or None for every floating argument.
    The gradients may come as any pytree that has the leaves, by name or in order. Both functions may be JAX or NumPy;
    `args` may be a function that draws them.

    >>> import jax.numpy as jnp
    >>> report = gradient(lambda w, x: jnp.sum(jnp.tanh(x @ w)), lambda w, x: x.sum(0), (jnp.ones(3), jnp.eye(3) + 1))
    >>> report["w"].verdict, report["w"].causes[0].kind
    ('wrong', 'factor')
    """
    given = Given(f, drawn(args), argnums)
    reference = Reference(f, given)
    returned, remarks = run_by_hand(by_hand, given)
    compared = compare_all(reference, returned)
    leaves = explain(compared, reference, functools.cache(functools.partial(_one_less, f, by_hand, given, argnums)))
    remarks += reference.notes + _inputs.remarks(reference)
    return Report(title(f, by_hand), leaves, remarks, reference=reference.told, unread=reference.unread)


def drawn(args: Any, who: str = "args") -> Any:
    """The arguments, drawn if a function was given that draws them: of nothing, of a seed (0), or of a source of random
    numbers, called `rng` (NumPy's) or `key` (JAX's)."""
    if not callable(args):
        return args
    try:
        required = [p.name for p in inspect.signature(args).parameters.values() if p.default is p.empty]
    except (TypeError, ValueError):  # a builtin tells nothing
        required = []
    sources: dict[str, Callable[[], Any]] = {"rng": lambda: np.random.default_rng(0), "key": lambda: jax.random.key(0)}
    return call(who, args, *(sources.get(name, lambda: 0)() for name in required[:1]))


def title(f: Callable[..., Any], by_hand: Callable[..., Any]) -> str:
    """What is compared with what."""
    return f"{getattr(by_hand, '__name__', 'by_hand')} against {getattr(f, '__name__', 'f')}"


def run_by_hand(by_hand: Callable[..., Any], given: Given) -> tuple[Returned, list[str]]:
    """The caller's gradients as they are, and in float64 where their code runs there."""
    own, remarks = match(call("by_hand", by_hand, *given.fresh()), given)
    if all(np.asarray(leaf).dtype == np.float64 for _, leaf in given.leaves if is_floating(leaf)) and _all_double(own):
        return Returned(own, own, EPS), remarks
    with double():
        wide_args = jax.tree.unflatten(given.structure, [as_float64(leaf) for _, leaf in given.leaves])
        try:
            wide = match(by_hand(*fresh(wide_args)), given)[0]
        except Exception as error:  # whatever it is: it ran in its own precision, and is judged by that
            remarks.append(f"by_hand does not run in float64 ({type(error).__name__}): judged in its own precision")
            return Returned(own, None), remarks
        return Returned(own, wide, _narrowest_in(by_hand, given, wide_args)), remarks


def _all_double(values: dict[str, Any]) -> bool:
    return all(np.asarray(v).dtype == np.float64 for v in values.values())


def _narrowest_in(by_hand, given, wide_args) -> float:
    flat = jax.tree.leaves(wide_args)
    x = [flat[k] for k in given.chosen]
    try:
        program = _walk.trace(lambda x: match(by_hand(*fresh(given.with_chosen(x, flat))), given)[0], x)
    except Exception:  # NumPy code is not traced: its precision cannot be read, and is taken to be its arguments'
        return EPS
    return max(EPS, narrowest(program))


def explain(
    compared: list[Compared], reference: Reference, one_less: Callable[[Size], dict[str, float]] = lambda size: {}
) -> list[Leaf]:
    """Leaves for the report, the wrong ones with their causes."""
    wrong = [_wrong(c, reference) for c in compared if c.verdict == WRONG]
    with reference.precision():
        causes = find(wrong, _context(reference, one_less)) if wrong else {}
    return [
        Leaf(
            c.name, c.verdict, c.error, c.ulp, c.worst, causes.get(c.name, ()), None, c.limit / c.scale, c.remarks,
            c.got, c.want, scale=c.scale,
        )
        for c in compared
    ]  # fmt: skip


def _one_less(f, by_hand, given: Given, argnums, size: Size) -> dict[str, float]:
    """By which factor each leaf is wrong where an axis of the data is one shorter; empty if that does not run."""
    flat = [leaf for _, leaf in given.leaves]
    for k in given.data():
        for axis, n in enumerate(np.shape(flat[k])):
            if n == size.n and (axis == 0) == size.first:
                flat[k] = flat[k][(slice(None),) * axis + (slice(n - 1),)]
    try:
        shorter = Given(f, jax.tree.unflatten(given.structure, flat), argnums)
        reference = Reference(f, shorter)
        returned = run_by_hand(by_hand, shorter)[0]
    except (CallerError, TypeError, ValueError):  # lengths that must agree: nothing is learned
        return {}
    got = returned.wide or returned.own
    found = {}
    for name, want in zip(reference.names, reference.gradients, strict=True):
        if want is not None and name in got and misfit(got[name], want.shape) is None and np.any(want):
            found[name] = abs(float(np.sum(np.asarray(got[name], np.float64) * want) / np.sum(want * want)))
    return found


def batches_of(given: Given) -> set[int]:
    """The lengths of first axes, and of second ones where there are three: one of them is the batch."""
    shapes = [np.shape(leaf) for _, leaf in given.leaves]
    return {s[0] for s in shapes if s} | {s[1] for s in shapes if len(s) > 2}


def _wrong(c: Compared, reference: Reference) -> Wrong:
    i = reference.names.index(c.name)
    want = c.want
    if want is None:  # it has the wrong form: the differences alone can say what it should be
        want = reference.entries(i)[0] if reference.one_by_one(i) else np.full(reference.x[i].shape, np.nan)
    return Wrong(c.name, c.got, want, c.limit, c.raw, reference.x[i], c.own_only)


def _context(reference: Reference, one_less: Callable[[Size], dict[str, float]]) -> Context:
    given = reference.given
    steps = [n for s in _walk.sites(reference.program) for n in s.lengths] if reference.program else []
    values = {name: np.asarray(leaf, np.float64) for name, leaf in given.leaves if is_floating(leaf)}
    others = {n: g for n, g in zip(reference.names, reference.gradients, strict=True) if g is not None}

    def board() -> Board | None:
        if not reference.by_autodiff or not reference.reverse:
            return None
        return Board(reference.program, reference.x, reference.names, batches=batches_of(given))

    def ties() -> dict[str, dict[str, np.ndarray]]:
        slopes, _ = reference.kinks()
        forms = slopes.forms() if slopes is not None else {}
        return {form: dict(zip(reference.names, gradients, strict=True)) for form, gradients in forms.items()}

    return Context(sizes_of(given, steps), others, values, reference.notes, board, functools.cache(ties), one_less)
