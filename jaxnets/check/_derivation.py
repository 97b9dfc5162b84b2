"""`check.derivation`: a backward pass line by line, and where it first goes wrong."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxnets.check import _inputs, _walk
from jaxnets.check._board import Board
from jaxnets.check._causes import find
from jaxnets.check._compare import BLUNT, FORMULA, ROUNDINGS, dtype_name, misfit, worst_of
from jaxnets.check._compiled import well
from jaxnets.check._gradient import batches_of, drawn, title
from jaxnets.check._names import Given, call, fresh, is_floating, match, names_matching
from jaxnets.check._numeric import EPS
from jaxnets.check._precision import as_float64, double
from jaxnets.check._reference import Reference
from jaxnets.check._report import KINK, RIGHT, UNDECIDABLE, WRONG, Leaf, Report
from jaxnets.check._wrong import Context, Wrong, sizes_of


def mark(name: str, x: Any) -> Any:
    """Give an intermediate of a forward pass the name under which its adjoint is compared; returns `x`."""
    return checkpoint_name(x, name)


def derivation(
    forward: Callable[..., Any], backward: Callable[..., Any], args: Sequence[Any] | Callable[[], Sequence[Any]]
) -> Report:
    """Check a derivation line by line.

    `forward(*args)` returns a scalar and names its intermediates with `check.mark`; `backward(*args)` returns a dict of
    adjoints, by the marks' names and those of arguments (`W`, `params.W`). A mark inside `lax.scan` has a row per step.

    Lines are told in the order of the backward pass. Each is compared with the truth, and with what it should be given
    the lines before it as the caller has them: a line that is only wrong because of an earlier one *follows from* it.

    >>> def forward(w, x):
    ...     a = mark("a", x @ w)
    ...     return mark("h", jnp.tanh(a)).sum()
    >>> def backward(w, x):
    ...     h = jnp.tanh(x @ w)
    ...     a_bar = 1 - h  # the square is missing
    ...     return {"h": jnp.ones_like(h), "a": a_bar, "w": x.T @ a_bar}
    >>> report = derivation(forward, backward, (jnp.arange(1.0, 4) / 5, jnp.ones((2, 3)) / 4))
    >>> report.first, report["w"].follows_from
    ('a', 'a')
    """
    given = Given(forward, drawn(args), None)
    reference = Reference(forward, given, "forward")
    if reference.program is None:
        raise TypeError(f"check.derivation: {reference.notes[0]}, and lines need a program; use check.gradient")
    if reference.gradients and not reference.reverse:
        raise TypeError(
            "check.derivation: forward has a while loop, or something else that has no backward pass to compare with: "
            "write it with lax.scan, or check its gradients with check.gradient"
        )
    order, unreachable = _lines(reference)
    keys: dict[str, str] = {}
    own = _returned(backward, given.fresh(), given, order, keys)
    if dead := _walk.unused_marks(reference.program) & set(own):
        name = min(dead)
        raise ValueError(
            f'check: nothing uses what mark("{name}", …) returned, and so no adjoint arrives there; write '
            f'{name} = mark("{name}", …) and go on with that'
        )
    wide = None
    with double():
        wide_args = jax.tree.unflatten(given.structure, [as_float64(leaf) for _, leaf in given.leaves])
        try:
            wide = _returned(backward, fresh(wide_args), given, order)
        except Exception as error:
            reference.notes.append(f"backward does not run in float64 ({type(error).__name__})")
    with double():
        report = _Judge(forward, backward, reference, order, own, wide).report(unreachable)
    short = any(key != name for name, key in keys.items())
    for name in order:
        last = name.rsplit(".", 1)[-1]
        if short and name not in keys and names_matching(last, order) == [name]:
            keys[name] = last  # missing, and called as its neighbours are
    report.leaves = [
        leaf._replace(
            name=keys.get(leaf.name, leaf.name),
            follows_from=keys.get(leaf.follows_from or "", leaf.follows_from),
            path=leaf.name,
        )
        for leaf in report.leaves
    ]
    return report


def _returned(backward, args, given, order, keys: dict[str, str] | None = None) -> dict[str, Any]:
    found = call("backward", backward, *args)
    if not isinstance(found, dict):
        raise TypeError(f"check: backward must return a dict of adjoints by name; got {type(found).__name__}")
    named: dict[str, Any] = {}
    for key, value in found.items():
        if key in given.names and not hasattr(value, "shape") and not np.isscalar(value):  # a whole argument
            named |= _of_argument(key, value, given, order)
            continue
        fits = [key] if key in order else names_matching(key, order)
        if len(fits) != 1:
            known = ", ".join(order)
            problem = f"it could be {' or '.join(fits)}" if fits else f"there are {known}"
            raise ValueError(f"check: backward returned {key!r}, which names no single mark or argument: {problem}")
        named[fits[0]] = value
        if keys is not None:
            keys[fits[0]] = key  # lines are called as backward calls them
    return named


def _of_argument(argument: str, value: Any, given: Given, order: list[str]) -> dict[str, Any]:
    """What came back for a whole argument, leaf by leaf: by name, and where it has no names in order."""
    found, remarks = match(value, given.only(argument), "backward")
    if remarks:
        raise ValueError(f"check: {remarks[0]}, in {argument}")
    return {name: bar for name, bar in found.items() if name in order}


def _lines(reference: Reference) -> tuple[list[str], list[str]]:
    """Names of marks and leaves in the order in which a backward pass comes to them."""
    jaxpr = _walk.opened(reference.program)[0]
    marks: dict[str, tuple[int, ...]] = {}
    hidden = []
    for s in _walk.sites(reference.program):
        if s.eqn.primitive.name == "name":
            name = s.eqn.params["name"]
            if s.looped:
                hidden.append(f"{name} (in a while loop, which has no backward pass)")
                continue
            if name in marks:
                raise ValueError(f"check: two marks are called {name!r}; give each its own name")
            marks[name] = s.place
    uses: dict[str, tuple[int, ...]] = {}
    for name, var in zip(reference.names, jaxpr.invars, strict=True):
        uses[name] = _first_use(jaxpr, var, ()) or ()
    both = set(marks) & set(uses)
    if both:
        raise ValueError(f"check: {sorted(both)} names a mark and an argument; rename the mark")
    places = {n: (p, 0) for n, p in uses.items()} | {n: (p, 1) for n, p in marks.items()}
    return sorted(places, key=lambda n: places[n], reverse=True), hidden


def _first_use(jaxpr, var, place) -> tuple[int, ...] | None:
    """The place of the first equation that really uses a variable, into programs within."""
    for i, eqn in enumerate(jaxpr.eqns):
        for j, v in enumerate(eqn.invars):
            if v is not var:
                continue
            programs = _walk.inner(eqn)
            if not programs:
                return (*place, i)
            skipped = 1 if eqn.primitive.name == "cond" else 0
            for branch, program in programs:
                inside = _walk.opened(program)[0]
                below = (*place, i) if branch is None else (*place, i, branch)
                if eqn.primitive.name == "while" or j - skipped >= len(inside.invars):
                    return (*place, i)
                found = _first_use(inside, inside.invars[j - skipped], below)
                if found:
                    return found
    return None


class _Judge:
    def __init__(self, forward, backward, reference: Reference, order, own, wide):
        self.title = title(forward, backward)
        self.reference, self.order, self.own, self.wide = reference, order, own, wide
        # The precise numbers carry on; the caller's own are judged at the end, by what their precision allows.
        self.numbers = own if wide is None else wide
        self.kinds = {n: dtype_name(np.asarray(v).dtype) for n, v in own.items()}
        lengths = [np.asarray(leaf) for _, leaf in reference.given.leaves if is_floating(leaf)]
        self.kind = max((dtype_name(a.dtype) for a in lengths), key=_eps)
        self.board = Board(reference.program, reference.x, reference.names)
        self.true = self.board.truth()
        self.noise = dict(zip(reference.names, [0.0] * len(reference.names), strict=True))

    def report(self, hidden: list[str]) -> Report:
        lines = [n for n in self.order if n in self.numbers]
        fits = {n: misfit(self.numbers[n], self.true[n].shape) for n in lines}
        whole = [n for n in lines if fits[n] is None]
        swaps = {n: np.asarray(self.numbers[n], np.float64) for n in whole if n not in self.reference.names}
        broken = [n for n in whole if not np.all(np.isfinite(np.asarray(self.numbers[n], np.float64)))]
        swaps = {n: bar for n, bar in swaps.items() if n not in broken}  # or everything after would be broken too
        local = Board(
            self.reference.program, self.reference.x, self.reference.names, swaps, batches_of(self.reference.given)
        )
        expected = local.truth()
        wrong = [n for n in lines if fits[n] is not None or self._off(n, self.true[n])]
        self.at_kink = self._at_kink([n for n in wrong if n in whole and self._off(n, expected[n])], swaps)
        wrong = [n for n in wrong if n not in self.at_kink]
        roots = [n for n in wrong if n not in broken[1:] and (fits[n] is not None or self._off(n, expected[n]))]
        follows = {n: broken[0] if n in broken else self._follows(n, roots, swaps) for n in wrong if n not in roots}
        lost = [n for n in wrong if n not in roots and follows[n] is None]
        if self.at_kink:  # wrong only as lines at a kink are: by what these hand on
            self.at_kink |= set(lost)
            wrong = [n for n in wrong if n not in lost]
        else:
            roots += lost
        causes = self._causes(roots, expected, fits, local)
        leaves = [self._leaf(n, wrong, roots, follows, fits, causes, expected) for n in lines]
        missing = [n for n in self.order if n not in self.numbers]
        not_compared = [n for n in missing if n not in self.reference.names or not self._asked(n)] + hidden
        leaves += [self._missing(n) for n in missing if n in self.reference.names and self._asked(n)]
        remarks = self.reference.notes + _inputs.remarks(self.reference)
        return Report(
            self.title,
            leaves,
            remarks,
            not_compared,
            "autodiff without rules, in float64, with the caller's own lines put in",
            self.reference.unread,
        )

    def _at_kink(self, names: list[str], swaps: dict[str, np.ndarray]) -> set[str]:
        """Which of these lines are right where at every kink all goes to the first winner or side, or to the last."""
        slopes = self.reference.kinks()[0] if names else None
        if slopes is None:
            return set()
        boards = [Board(p, self.reference.x, self.reference.names, swaps) for p in slopes.programs()]
        return {n for truth in [b.truth() for b in boards] for n in names if not self._off(n, truth[n])}

    def _asked(self, name: str) -> bool:
        """A parameter that backward leaves out counts as missing where others of its argument are returned."""
        head = name.split(".")[0].split("[")[0]
        return name != head and any(n.startswith((f"{head}.", f"{head}[")) for n in self.numbers)

    def _missing(self, name: str) -> Leaf:
        from jaxnets.check._report import Cause

        cause = Cause("shape", "no gradient was returned for this leaf", float("inf"))
        return Leaf(name, WRONG, float("inf"), float("inf"), None, (cause,), want=self.true[name])

    def _limit(self, name: str, want: np.ndarray) -> float:
        scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0))
        top = max(float(np.max(np.abs(t[np.isfinite(t)]), initial=0)) for t in self.true.values())
        # A line that is truly zero is measured against the lines around it.
        base = scale if scale > 1e5 * EPS * top else top
        if self.wide is None:
            return ROUNDINGS[self.kind] * _eps(self.kind) * (base or 1.0)
        return FORMULA[self.kind] * (base or 1.0) + ROUNDINGS["float64"] * self.reference.eps * base

    def _off(self, name: str, want: np.ndarray) -> bool:
        got = np.asarray(self.numbers[name], np.float64)
        return bool(np.any(~(np.abs(got - want) <= self._limit(name, want))))

    def _follows(self, name: str, roots: list[str], swaps: dict[str, np.ndarray]) -> str | None:
        earlier = [r for r in self.order if r in roots and self.order.index(r) < self.order.index(name)]
        inside = [r for r in roots if r not in earlier]
        for root in earlier + inside:
            if root in swaps:
                alone = Board(self.reference.program, self.reference.x, self.reference.names, {root: swaps[root]})
                if np.any(np.abs(alone.truth()[name] - self.true[name]) > self._limit(name, self.true[name])):
                    return root
        return (earlier or inside or [None])[0]

    def _causes(self, roots, expected, fits, local) -> dict[str, Any]:
        if not roots:
            return {}
        given = self.reference.given
        values = self._values()
        wrong = [
            Wrong(
                n,
                None if fits[n] else np.asarray(self.numbers[n], np.float64),
                expected[n],
                self._limit(n, expected[n]),
                self.numbers[n],
                values.get(n),
            )
            for n in roots
        ]
        steps = [n for s in _walk.sites(self.reference.program) for n in s.lengths]
        values |= {f"the adjoint of {n}": bar for n, bar in expected.items() if n not in self.reference.names}
        return find(wrong, Context(sizes_of(given, steps), self.true, values, self.reference.notes, lambda: local))

    def _values(self) -> dict[str, np.ndarray]:
        marks = self.board.marks

        def look(place, eqn, operands, given):
            out = _walk.bind(eqn, operands)
            return out, (out[0] if place in marks else None)

        x = jax.device_put(self.reference.x)
        handed = well(lambda x: _walk.run(self.reference.program, x, look)[1])(x)
        named = {marks[p]: np.asarray(v) for p, v in handed.items()}
        return named | dict(zip(self.reference.names, self.reference.x, strict=True))

    def _leaf(self, name, wrong, roots, follows, fits, causes, expected) -> Leaf:
        if fits[name] is not None:
            return Leaf(
                name,
                WRONG,
                float("inf"),
                float("inf"),
                None,
                causes.get(name, ()),
                None,
                0.0,
                () if causes.get(name) else (fits[name],),
                want=expected[name],
            )
        own = np.asarray(self.own[name], np.float64)
        base = expected[name] if name in roots else self.true[name]
        got = np.asarray(self.numbers[name], np.float64) if name in wrong else own
        limit = self._limit(name, base)
        scale = float(np.max(np.abs(base[np.isfinite(base)]), initial=0))
        scale = scale if scale > limit else limit / FORMULA[self.kind] if limit else 1.0
        off = np.abs(got - base)
        verdict, remarks = (WRONG if name in wrong else RIGHT), []
        if name in self.at_kink:
            verdict = KINK
            remarks.append(f"at a kink ({'; '.join(self.reference.kinks()[1][:3])}): accepted on either side")
        if not np.all(np.isfinite(base)) and verdict == RIGHT:
            verdict = UNDECIDABLE
        if verdict == RIGHT and not np.all(np.isfinite(own)):
            verdict = WRONG
            remarks.append("right in float64, not finite in its own precision")
        if verdict == RIGHT and self.wide is not None and self._strays(name, own, base):
            verdict, got = WRONG, own
            remarks.append("right in float64, another formula in its own precision")
        error = float(np.max(np.where(np.isnan(off), np.inf, off), initial=0)) / scale
        eps = _eps(self.kinds[name] if _eps(self.kinds[name]) > _eps(self.kind) else self.kind)
        earlier = None if name in roots else follows.get(name)
        return Leaf(
            name, verdict, error, error / eps, worst_of(off), causes.get(name, ()), earlier, limit / scale,
            tuple(remarks), got, base, self._source(name), scale=scale,
        )  # fmt: skip

    def _strays(self, name: str, own: np.ndarray, base: np.ndarray) -> bool:
        """In its own precision a line may have lost digits to what cancels in it, but no more than that."""
        top = max(float(np.max(np.abs(t[np.isfinite(t)]), initial=0)) for t in self.true.values())
        scale = float(np.max(np.abs(base), initial=0))
        lost = ROUNDINGS[self.kind] * _eps(self.kind) * top + 100 * float(jnp.finfo(self.kind).smallest_subnormal)
        return not self.reference.jumps and bool(np.max(np.abs(own - base), initial=0) > BLUNT * scale + lost)

    def _source(self, name: str) -> str | None:
        for p, mark_name in self.board.marks.items():
            if mark_name == name:
                return f"the adjoint of {_walk.source(self.board.sites[p].eqn)}"
        return None


def _eps(kind: str) -> float:
    return float(jnp.finfo(kind).eps)
