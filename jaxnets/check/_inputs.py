"""What the arguments of a check cannot show: a batch of one, equal or symmetric values, saturated units."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _walk
from jaxnets.check._compiled import well
from jaxnets.check._names import is_key
from jaxnets.check._reference import Reference, describe

_FLAT = {"tanh": lambda q: 1 - q * q, "logistic": lambda q: q * (1 - q)}
_SATURATED = 1e-6  # a local derivative below it contributes nothing that could be seen
_LARGE = 2_000_000  # entries beyond which values are not looked through for repetitions


def remarks(reference: Reference) -> list[str]:
    """Which mistakes would pass at these arguments."""
    return [*_of_shapes(reference), *_of_values(reference), *_of_the_program(reference)]


def _of_shapes(reference: Reference) -> Iterator[str]:
    alone = [
        f"axis {axis} of {name}"
        for name, leaf in reference.given.leaves
        for axis in range(min(np.ndim(leaf), 2))
        if np.shape(leaf)[axis] == 1 and np.ndim(leaf) >= 2 + axis
    ]
    if alone:
        yield f"of length 1: {_listed(alone)}; a sum or mean that is missing there would pass"


def _of_values(reference: Reference) -> Iterator[str]:
    equal, symmetric, distinct = [], [], []
    gathers = reference.program is not None and any(
        s.eqn.primitive.name == "gather" for s in _walk.sites(reference.program)
    )
    for name, leaf in reference.given.leaves:
        if is_key(leaf):
            continue
        x = np.asarray(leaf)
        if not 1 < x.size <= _LARGE or x.dtype.kind == "O":
            continue
        if x.dtype.kind in "iu":
            if gathers and len(np.unique(x)) == x.size:
                distinct.append(name)
        elif np.all(x == x.flat[0]):
            equal.append(name)
        elif x.ndim == 2 and x.shape[0] == x.shape[1] and np.array_equal(x, x.T):
            symmetric.append(name)
    if equal:
        yield f"all entries of {_listed(equal)} are equal: entries that change places would pass"
    if symmetric:
        yield f"{_listed(symmetric)} {'are' if len(symmetric) > 1 else 'is'} symmetric: a transpose of it would pass"
    if distinct:
        yield f"no number occurs twice in {_listed(distinct)}: rows overwritten in place of added up would pass"
    for name, g in zip(reference.names, reference.gradients, strict=True):
        if g is None or g.ndim != 2 or not 1 < g.shape[0] == g.shape[1]:
            continue
        if np.max(np.abs(g)) > 0 and np.max(np.abs(g - g.T)) <= 1e-6 * np.max(np.abs(g)):
            yield f"the gradient of {name} is symmetric: its transpose would pass"


def _of_the_program(reference: Reference) -> Iterator[str]:
    if reference.program is None:
        return
    sites = {s.place: s for s in _walk.sites(reference.program) if not s.looped}
    if any(s.eqn.primitive.name == "scan" and s.eqn.params["length"] == 1 for s in _held(reference.program)):
        yield "a scan of one step: what goes from step to step is not tested"
    if not any(s.eqn.primitive.name in _FLAT for s in sites.values()):
        return

    def look(place, eqn, operands, given):
        out = _walk.bind(eqn, operands)
        if place not in sites or eqn.primitive.name not in _FLAT:
            return out, None
        return out, jnp.mean(jnp.abs(_FLAT[eqn.primitive.name](out[0])) < _SATURATED)

    with reference.precision():
        shares = well(lambda x: _walk.run(reference.program, x, look)[1])(jax.device_put(reference.x))
    for place, share in shares.items():
        if (flat := float(np.mean(share))) >= 0.5:
            told = describe(sites[place])
            yield f"{flat:.0%} of the results of {told} are saturated: their derivative is 0, and an error in it passes"


def _held(program: Any) -> list[_walk.Site]:
    return [s for s in _walk.sites(program, holders=True) if not s.looped]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
