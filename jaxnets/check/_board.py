"""A program whose backward pass can be altered, equation by equation: what the causes are tried on.

The forward values stay as they are. What each equation hands back has weights and substitutes (`_alter`), which are
inputs of one compiled program, so that an altered gradient costs one evaluation of it. The gradient that an alteration
gives is compared with the one that was handed in.

Marks can be *swapped*: the adjoint that arrives at a mark is handed out, and the caller's goes on in its place. So each
line is judged by what the lines before it really were.
"""

from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._alike import moved, softmax
from jaxnets.check._alter import (
    ARRIVING,
    Factor,
    Option,
    Stored,
    Turned,
    arrives,
    can_turn,
    operands_of,
    share_shape,
    substitute_shape,
    substituted,
    turned,
    weighted,
)
from jaxnets.check._compiled import quickly
from jaxnets.check._options import options, truncations
from jaxnets.check._unrolled import Alteration, alterations
from jaxnets.check._walk import Place, bind, is_float

_STORED = 2_000_000  # beyond this many entries no values are kept, and nothing is substituted


class Board:
    """A program with weights at its equations, compiled once. To be used in the precision of its numbers."""

    def __init__(
        self,
        program: Any,
        x: list[Any],
        names: list[str],
        swaps: dict[str, Any] | None = None,
        batches: Collection[int] = (),
    ):
        self.program, self.x, self.names = program, jax.device_put(list(x)), names
        self.batches = set(batches) - {1}
        self.sites = {s.place: s for s in _walk.sites(program) if not s.looped}
        self.marks = {p: s.eqn.params["name"] for p, s in self.sites.items() if s.eqn.primitive.name == "name"}
        self.swaps = {p: jax.device_put((swaps or {})[n]) for p, n in self.marks.items() if n in (swaps or {})}
        self.probes = {
            p: np.zeros((*self.sites[p].lengths, *self.sites[p].eqn.outvars[0].aval.shape)) for p in self.marks
        }
        self._plain = quickly(self._gradient)

    def prepare(self) -> None:
        """Put weights and substitutes in: only worth it once something is wrong."""
        self.stored = stored = self._stored()
        found: list[Option] = []
        self.default: dict[Place, dict[str, dict[int, Any]]] = {}
        for p, site in self.sites.items():
            operands = operands_of(site)
            if not operands:
                continue
            weights, substitutes = {}, {}
            for j in (*operands, ARRIVING) if arrives(site) else operands:
                shape = share_shape(site, j)
                weights[j] = np.ones((*site.lengths, *(shape if stored else ())))
                if stored and j != ARRIVING and (shape := substitute_shape(site, j)) is not None:
                    substitutes[j] = np.zeros((*site.lengths, *shape))
            turns = {j: np.zeros(site.lengths) for j in operands if can_turn(site.eqn)}
            self.default[p] = {"weights": weights, "substitutes": substitutes, "turns": turns}
            found += options(site, stored, self.sites, self.batches)
        for s in _walk.sites(self.program, holders=True):
            if s.eqn.primitive.name == "scan" and not s.looped:
                steps, carries = s.eqn.params["length"], _walk.scan_counts(s.eqn)[1]
                if carries and steps > 1:
                    place = (*s.place, _walk.CARRY)
                    self.default[place] = {"weights": {j: np.ones((*s.lengths, steps)) for j in range(carries)}}
                    found += truncations(place, s.eqn, steps, carries)
        self.found = list(alterations(found, self.sites, stored))

    def _stored(self) -> dict[Place, Stored]:
        if self.entries > _STORED:
            return {}

        def look(place, eqn, operands, given):
            out = bind(eqn, operands)
            held = place in self.sites and is_float(out[0])
            return out, (Stored([jnp.asarray(o) for o in operands], out[0]) if held else None)

        handed = quickly(lambda x: _walk.run(self.program, x, look)[1])(self.x)
        return jax.tree.map(np.asarray, handed)

    @property
    def entries(self) -> int:
        """Floating numbers that go into and come out of its equations."""
        return sum(
            int(np.prod((*s.lengths, *v.aval.shape)))
            for s in self.sites.values()
            for v in (*s.eqn.invars, *s.eqn.outvars)
            if is_float(v)
        )

    def _gradient(self, x, probes, swaps, changes):
        def value(x, probes):
            given: dict[Place, Any] = {p: {"probe": probe} for p, probe in probes.items()}
            for p, bar in swaps.items():
                given[p]["bar"] = bar
            return _walk.run(self.program, x, _Altered(), given | changes)[0][0]

        return jax.grad(value, argnums=(0, 1))(x, probes)

    def truth(self, swapped: bool = True) -> dict[str, np.ndarray]:
        """The gradients of leaves and the adjoints that arrive at marks, by name."""
        return self._named(self._plain(self.x, self.probes, self.swaps if swapped else {}, {}))

    def exchanges(self) -> Iterator[tuple[str, list[tuple[str, str]], dict[str, np.ndarray]]]:
        """Gradients with something else in the place of a mark's adjoint: (mark, kinds and words, gradients)."""
        for p in self.swaps:
            for told, bar in self._instead(p):
                bar = jax.device_put(np.broadcast_to(bar, self.swaps[p].shape).astype(self.swaps[p].dtype))
                found = self._plain(self.x, self.probes, self.swaps | {p: bar}, {})
                yield self.marks[p], told, self._named(found)

    def _instead(self, p: Place) -> Iterator[tuple[list[tuple[str, str]], np.ndarray]]:
        mine, name = np.asarray(self.swaps[p]), self.marks[p]
        for q in self.swaps:
            if q != p and self.swaps[q].shape == mine.shape:
                told = f"the adjoint of {self.marks[q]} in place of that of {name}"
                yield (
                    [("factor", f"{told}: what stands between them is missing"), ("place", told)],
                    np.asarray(self.swaps[q]),
                )
        yield [("factor", f"where the adjoint of {name} is not zero, 1 in its place")], (mine != 0) * 1.0
        for axis in range(mine.ndim):
            for by in (1, -1) if mine.shape[axis] > 2 else ():
                told = f"the adjoint of {name} moved by {by} along axis {axis}"
                yield [("shift", told)], np.roll(mine, by, axis)
                yield [("shift", f"{told}, nothing coming in")], moved(mine, by, axis)
        if p in self.stored and mine.ndim:
            x = np.asarray(self.stored[p].result)
            for text, value in {
                "its value": x,
                "σ of its value": 1 / (1 + np.exp(-x)),
                "softmax of its value": softmax(x),
            }.items():
                told = f"{text} in place of the adjoint of {name}"
                yield [("place", told), ("path", f"{told}: what is subtracted is missing")], value

    def altered(self, alteration: Alteration) -> dict[str, np.ndarray] | None:
        """The gradients under an alteration; None where it does not fit."""
        changes = dict(self.default)
        for option in alteration.parts:
            changed = self._changed(option)
            if changed is None:
                return None
            changes[option.place] = changed
        return self._named(self._plain(self.x, self.probes, self.swaps, changes))

    def _changed(self, option: Option) -> dict[str, Any] | None:
        there = self.default[option.place]
        weights = dict(there["weights"])
        for j, value in option.weights.items():
            like = weights[j]
            if isinstance(value, Factor):
                with np.errstate(all="ignore"):
                    value = np.where(np.isfinite(value.weights), value.weights, 0)
            elif np.ndim(value):  # a weight a step, for every row
                value = np.reshape(value, np.shape(value) + (1,) * (like.ndim - self._steps(option.place)))
            weights[j] = np.broadcast_to(np.asarray(value, like.dtype), like.shape)
        changed = {**there, "weights": weights}
        if option.substitute is None:
            return changed
        j, make = option.substitute
        if make is Turned:
            return {**changed, "turns": there["turns"] | {j: np.ones_like(there["turns"][j])}}
        like = there["substitutes"][j]
        with np.errstate(all="ignore"):
            value = np.asarray(make(), like.dtype)
        value = value.reshape(value.shape + (1,) * (like.ndim - value.ndim))  # a number beside an array
        if value.ndim > like.ndim or value.size > like.size:
            return None  # a number that serves a whole array: it has no such share
        value = np.broadcast_to(value, like.shape)
        value = np.where(np.isfinite(value), value, 0)
        return {**changed, "substitutes": {**there["substitutes"], j: value}}

    def _steps(self, place: Place) -> int:
        if place[-1] == _walk.CARRY:
            return self.default[place]["weights"][0].ndim
        return len(self.sites[place].lengths)

    def _named(self, found) -> dict[str, np.ndarray]:
        leaves, marks = jax.device_get(found)
        named = dict(zip(self.names, leaves, strict=True))
        return named | {self.marks[p]: g for p, g in marks.items()}


@jax.custom_vjp
def _swap(x, bar, probe):
    return x


_swap.defvjp(lambda x, bar, probe: (x, bar), lambda bar, arrived: (bar, jnp.zeros_like(bar), arrived))


class _Altered:
    """The visitor that puts probes, swaps, weights and substitutes where they belong."""

    def __call__(self, place, eqn, operands, given):
        if given is None:
            return bind(eqn, operands), None
        if "probe" in given:
            (out,) = bind(eqn, operands)
            given = {name: value.astype(out.dtype) for name, value in given.items()}
            return [_swap(out, given["bar"], given["probe"]) if "bar" in given else out + given["probe"]], None
        shares = [weighted(o, given["weights"][j]) if j in given["weights"] else o for j, o in enumerate(operands)]
        (out,) = bind(eqn, shares)
        for j, value in given["substitutes"].items():
            out = out + substituted(eqn, operands, j, value)
        for j, weight in given["turns"].items():
            out = out + turned(eqn, operands, j, weight)
        if ARRIVING in given["weights"]:
            out = weighted(out, given["weights"][ARRIVING])
        return [out], None

    def carried(self, carry, given):
        return [weighted(c, given["weights"][j]) if is_float(c) else c for j, c in enumerate(carry)]
