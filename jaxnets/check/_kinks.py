"""Kinks: where the winner of a maximum, or the side of a relu, could as well be another.

At a kink a function has no one slope. Each kink that is met gets a weight that says how the slope is shared between
its sides; the gradient is a function of these weights, and along a direction the slopes that some choice gives fill an
interval. A hand-written gradient is accepted if it lies within that interval along every direction tried.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.check import _walk
from jaxnets.check._compiled import well
from jaxnets.check._precision import double
from jaxnets.check._walk import bind, is_float

_COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")
_PASS_ON = ("not", "and", "or", "broadcast_in_dim", "reshape", "squeeze", "transpose", "xor", "copy")
_BLENDED = ("max", "min", "abs", "reduce_max", "reduce_min", "select_n", "clamp")
_NOTED = ("sort", "argmax", "argmin", "cummax", "cummin", "sign", "reduce_precision", "top_k")


class Met(NamedTuple):
    """A kink: its equation, how many entries are at it, and the share that JAX gives to the first side there."""

    site: Any
    count: int
    tied: Any
    share: Any


class Kinks:
    """A visitor that finds ties closer than `near` (of an operand's largest entry), and blends what is tied."""

    def __init__(self, near: float):
        self.near = near
        self.doubts: dict[int, tuple[Any, Any]] = {}  # a boolean's identity -> itself, and where it could be another

    def __call__(self, place, eqn, operands, given):
        name = eqn.primitive.name
        if name in _COMPARISONS and is_float(operands[0]) and operands[0] is not operands[1]:
            out = bind(eqn, operands)
            self.doubts[id(out[0])] = (out[0], self._close(*operands))
            return out, None
        if name in _PASS_ON:
            out = bind(eqn, operands)
            self._pass_on(eqn, operands, out)
            return out, None
        if name == "select_n" and id(operands[0]) in self.doubts and is_float(operands[1]) and len(operands) == 3:
            which, tied = self.doubts[id(operands[0])]
            share = which.astype(operands[2].dtype)
            return self._two(bind(eqn, operands)[0], operands[2], operands[1], tied, share, given)
        if name in ("max", "min") and is_float(operands[0]):
            a, b = operands
            out = bind(eqn, operands)[0]
            return self._two(out, a, b, self._close(a, b), jnp.full_like(out, 0.5), given)
        if name == "clamp" and is_float(operands[1]):
            low, x, high = operands
            out = bind(eqn, operands)[0]
            tied = self._close(x, low) | self._close(x, high)
            return self._two(out, x, lax.stop_gradient(out), tied, ((x > low) & (x < high)).astype(x.dtype), given)
        if name == "abs" and is_float(operands[0]):
            (x,) = operands
            return self._two(bind(eqn, operands)[0], x, -x, self._close(x, jnp.zeros_like(x)), 0.5 + 0 * x, given)
        if name in ("reduce_max", "reduce_min") and is_float(operands[0]):
            return self._many(eqn, operands, given)
        if name in ("sort", "top_k") and is_float(operands[0]):
            x = jnp.sort(operands[0], axis=eqn.params.get("dimension", -1))
            gap = jnp.diff(x, axis=eqn.params.get("dimension", -1))
            return bind(eqn, operands), {"noted": jnp.sum(gap <= self.near * self._size(x))}
        if name in ("argmax", "argmin") and is_float(operands[0]):
            (x,) = operands
            end = (jnp.max if name == "argmax" else jnp.min)(x, axis=eqn.params["axes"], keepdims=True)
            tied = jnp.sum(jnp.abs(x - end) <= self.near * self._size(x), axis=eqn.params["axes"])
            return bind(eqn, operands), {"noted": jnp.sum(tied > 1)}
        return bind(eqn, operands), None

    @staticmethod
    def _size(x):
        return jnp.max(jnp.abs(jnp.where(jnp.isfinite(x), x, 0)), initial=0)

    def _close(self, a, b):
        return jnp.abs(a - b) <= self.near * jnp.maximum(self._size(a), self._size(b))

    def _pass_on(self, eqn, operands, out):
        doubts = [self.doubts[id(x)][1] for x in operands if id(x) in self.doubts]
        if doubts:
            rest = [False if id(x) not in self.doubts else None for x in operands]
            if eqn.primitive.name in ("broadcast_in_dim", "reshape", "squeeze", "transpose", "copy"):
                self.doubts[id(out[0])] = (out[0], bind(eqn, [doubts[0], *operands[1:]])[0])
            else:
                tied = doubts[0] | doubts[1] if len(doubts) == 2 and None in rest else doubts[0]
                self.doubts[id(out[0])] = (out[0], jnp.broadcast_to(tied, out[0].shape))

    def _two(self, out, a, b, tied, share, given):
        tied = jnp.broadcast_to(tied, out.shape)
        if given is None:
            return [out], {"tied": tied, "share": jnp.where(tied, share, 0)}
        of_a = jnp.where(tied, share + given, 0)
        change = of_a * (a - lax.stop_gradient(a)) + (1 - of_a) * (b - lax.stop_gradient(b))
        return [jnp.where(tied, lax.stop_gradient(out) + change, out)], None

    def _many(self, eqn, operands, given):
        (x,), axes = operands, eqn.params["axes"]
        out = bind(eqn, operands)[0]
        tied = jnp.abs(x - jnp.expand_dims(out, axes)) <= self.near * self._size(x)
        winners = jnp.sum(tied, axes, keepdims=True)
        share = jnp.where(tied, 1.0 / winners, 0).astype(x.dtype)
        if given is None:
            return [out], {"tied": tied & (winners > 1), "share": share}
        change = jnp.sum((share + given) * (x - lax.stop_gradient(x)) * tied, axes)
        return [lax.stop_gradient(out) + change], None


def met(closed: Any, args: list[Any], near: float) -> tuple[list[Met], list[Any]]:
    """The kinks at these arguments that can be blended, and the sites of those that can only be noted."""
    sites = {s.place: s for s in _walk.sites(closed) if not s.looped}
    watched = {
        "max",
        "min",
        "abs",
        "reduce_max",
        "reduce_min",
        "clamp",
        "select_n",
        "sort",
        "top_k",
        "argmax",
        "argmin",
    }
    if not any(s.eqn.primitive.name in watched for s in sites.values()):
        return [], []
    handed = well(lambda args: _walk.run(closed, args, Kinks(near))[1])(args)
    blended, noted = [], []
    for place, got in handed.items():
        if place not in sites:
            continue
        if "noted" in got:
            if int(np.sum(got["noted"])):
                noted.append(sites[place])
        elif int(np.sum(got["tied"])):
            blended.append(Met(sites[place], int(np.sum(got["tied"])), got["tied"], got["share"]))
    return blended, noted


class Slopes:
    """The gradients that a choice at each kink may give."""

    def __init__(self, closed: Any, args: list[Any], kinks: list[Met], near: float):
        self.closed, self.kinks, self.args, self.near = closed, kinks, args, near
        zero = {k.site.place: np.zeros_like(k.share) for k in kinks}

        def grad(args, given):
            return jax.grad(lambda a: _walk.run(closed, a, Kinks(near), given)[0][0])(args)

        def along(given, args, direction):
            return sum(jnp.vdot(g, d) for g, d in zip(grad(args, given), direction, strict=True))

        self._zero = zero
        self._grad = well(grad)
        self._along = well(jax.value_and_grad(along))

    def interval(self, leaf: int, direction: Any) -> tuple[float, float]:
        """Least and greatest slope along a direction of one leaf, over all choices: the kinks' ranges are summed."""
        with double():
            return self._interval(leaf, direction)

    def _interval(self, leaf, direction):
        full = [np.zeros_like(a) for a in self.args]
        full[leaf] = np.asarray(direction, self.args[leaf].dtype)
        ends = []
        low, high, at = np.inf, -np.inf, self._zero
        # The ranges at JAX's own choice; then at the ends found there, since one kink may stand behind another.
        for _ in range(2):
            value, slopes = self._along(at, self.args, full)
            lowest, highest, corners = self._ranges(slopes, at)
            low, high = min(low, float(value) + lowest), max(high, float(value) + highest)
            ends += corners
            at = ends[-1]
        for corner in ends[:2]:
            value = float(self._along(corner, self.args, full)[0])
            low, high = min(low, value), max(high, value)
        return low, high

    def apart(self, leaf: int, got: np.ndarray, start: np.ndarray) -> np.ndarray:
        """A direction along which `got` lies outside what all choices give, if there is one: by Frank and Wolfe's
        method, which walks from choice to choice towards it."""
        with double():
            now = np.array(start, float)
            for _k in range(25):
                direction = got - now
                full = [np.zeros_like(a) for a in self.args]
                full[leaf] = np.asarray(direction, self.args[leaf].dtype)
                slopes = self._along(self._zero, self.args, full)[1]
                corner = self._ranges(slopes, self._zero)[2][0]
                end = np.asarray(self._grad(self.args, corner)[leaf], float)
                step = end - now
                size = float(np.sum(step * step))
                if size == 0 or float(np.sum(direction * step)) <= 1e-12 * size:
                    break
                now = now + min(1.0, float(np.sum(direction * step)) / size) * step
            return got - now

    def _ranges(self, slopes, at):
        lowest = highest = 0.0
        least, most = {}, {}
        for kink in self.kinks:
            place = kink.site.place
            c, tied, share = (np.asarray(v, float) for v in (slopes[place], kink.tied, kink.share))
            now = share + np.asarray(at[place])
            if kink.site.eqn.primitive.name in ("reduce_max", "reduce_min"):
                axes = tuple(a + len(kink.site.lengths) for a in kink.site.eqn.params["axes"])
                c_tied = np.where(tied > 0, c, -np.inf)
                best = c_tied == c_tied.max(axes, keepdims=True)
                worst = (c_least := np.where(tied > 0, c, np.inf)) == c_least.min(axes, keepdims=True)
                top, bottom = (w * tied / np.maximum((w * tied).sum(axes, keepdims=True), 1) for w in (best, worst))
            else:
                top, bottom = (c > 0) * tied, (c < 0) * tied
            c = np.where(tied > 0, c, 0)
            highest += float(np.sum(c * (top - now)))
            lowest += float(np.sum(c * (bottom - now)))
            most[place] = np.where(tied > 0, top - share, 0).astype(kink.share.dtype)
            least[place] = np.where(tied > 0, bottom - share, 0).astype(kink.share.dtype)
        return lowest, highest, [most, least]

    def forms(self) -> dict[str, list[np.ndarray]]:
        """Ways in which people give a tie's gradient away: to the first winner, the last, or to each in full."""
        with double():
            return {name: [np.asarray(g) for g in self._grad(self.args, given)] for name, given in self._ways().items()}

    def programs(self) -> list[Any]:
        """The program itself, all to the first winner or side at its kinks, and all to the last."""
        return [
            _walk.trace(
                lambda args, given=given: _walk.run(self.closed, args, Kinks(self.near), given)[0][0], self.args
            )
            for given in list(self._ways().values())[:2]
        ]

    def _ways(self) -> dict[str, dict[_walk.Place, Any]]:
        first, last, every, none = {}, {}, {}, {}
        for kink in self.kinks:
            place, tied, share = kink.site.place, np.asarray(kink.tied, float), np.asarray(kink.share, float)
            if kink.site.eqn.primitive.name in ("reduce_max", "reduce_min"):
                axes = tuple(a + len(kink.site.lengths) for a in kink.site.eqn.params["axes"])
                flat = np.moveaxis(tied, axes, range(len(axes))).reshape(
                    int(np.prod([tied.shape[a] for a in axes])), -1
                )
                one = [np.zeros_like(flat), np.zeros_like(flat)]
                rank = np.cumsum(flat, 0)
                one[0][(rank == 1) & (flat > 0)] = 1
                one[1][(rank == rank[-1:]) & (flat > 0)] = 1
                moved = np.moveaxis(tied, axes, range(len(axes))).shape
                a, b = (np.moveaxis(w.reshape(moved), range(len(axes)), axes) for w in one)
            else:
                a, b = tied, np.zeros_like(tied)
            for form, weight in ((first, a), (last, b), (every, tied), (none, np.zeros_like(tied))):
                form[place] = np.where(tied > 0, weight - share, 0).astype(kink.share.dtype)
        ways = {"to the first winner": first, "to the last winner": last, "in full to every winner": every}
        return ways | {"to none of the winners": none}
