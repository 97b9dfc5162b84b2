"""How a program is made to hand back something else than it should, equation by equation.

Each operand of an equation has a *weight* on what is handed back to it (1 as it should be, 0 for a path that is
missing, per row where there is a batch), and where the equation multiplies, a *substitute*: what stands in the place of
the local derivative or of the other factor (nothing as it should be). An `Option` is a choice of these at one equation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.check import _walk
from jaxnets.check._walk import Place, bind, is_float

UNARY = {
    *("tanh", "logistic", "exp", "exp2", "log", "log1p", "expm1", "sin", "cos", "tan", "sqrt", "rsqrt", "cbrt"),
    *("integer_pow", "square", "erf", "erfc", "atan", "asin", "acos", "sinh", "cosh", "asinh", "atanh", "lgamma"),
}


ELEMENTWISE = UNARY | {"mul", "div", "max", "min", "select_n"}


LINEAR = {"dot_general", "conv_general_dilated"}


EXTREMES = {"reduce_max", "reduce_min"}


_STRETCHING = {"add", "sub", "mul", "div", "max", "min", "pow"}  # an axis of length 1 serves all of the other's


SUBSTITUTED = ELEMENTWISE | LINEAR | EXTREMES | {"gather"}


ARRIVING = -1  # in the place of an operand's number: what arrives at the equation, for all of them


_MOVES = {  # these only pass an adjoint on: what is done to it is done at the equations that use them
    *("broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "name", "copy", "transpose", "stop_gradient"),
    *("slice", "rev", "pad", "expand_dims", "copy_p", "pvary", "pcast", "optimization_barrier"),
}


class Stored(NamedTuple):
    """What an equation was given, and gave; within scans a row per step."""

    operands: list[Any]
    result: Any


class Option(NamedTuple):
    """An alteration at one place: weights by operand, a substitute for one operand, and how it is told."""

    place: Place
    weights: dict[int, Any]
    substitute: tuple[int, Callable[[], Any]] | None
    kind: str
    detail: str

    @property
    def cuts(self) -> bool:
        """Whether a whole path is missing, and nothing else."""
        return self.substitute is None and list(self.weights.values()) == [0.0]


def delta(x: Any) -> Any:
    """Zero, with derivative one; what is not finite takes no part, or the zero would be none."""
    return jnp.where(jnp.isfinite(x), x - lax.stop_gradient(x), 0)


def operands_of(site: _walk.Site) -> list[int]:
    """The operands of an equation that can be altered."""
    eqn = site.eqn
    if eqn.primitive.name in _MOVES or len(eqn.outvars) != 1 or not is_float(eqn.outvars[0]):
        return []
    return [j for j, v in enumerate(eqn.invars) if is_float(v) and not isinstance(v, _walk.Literal)]


def share_shape(site: _walk.Site, j: int) -> tuple[int, ...]:
    """The shape in which an operand takes part: where an equation stretches it, that of the result."""
    out = site.eqn.outvars[0].aval.shape
    shape = out if j == ARRIVING else site.eqn.invars[j].aval.shape
    return out if site.eqn.primitive.name in _STRETCHING and len(shape) == len(out) else shape


def arrives(site: _walk.Site) -> bool:
    """Whether what arrives at an equation is altered as a whole, besides what it hands back to each operand."""
    return site.eqn.primitive.name in LINEAR | {"add", "sub"}


def substitute_shape(site: _walk.Site, j: int) -> tuple[int, ...] | None:
    """The shape of what can stand in for the local derivative, or for the other factor; None where nothing can."""
    eqn, name = site.eqn, site.eqn.primitive.name
    if name not in SUBSTITUTED or (name == "gather" and j):
        return None
    if name in LINEAR:
        return eqn.invars[1 - j].aval.shape if is_float(eqn.invars[1 - j]) else None
    return eqn.outvars[0].aval.shape if name == "gather" else share_shape(site, j)


def weighted(operand: Any, weight: Any) -> Any:
    """An operand that hands back its share times a weight."""
    return lax.stop_gradient(operand) + jnp.asarray(weight, operand.dtype) * delta(operand)


def turned(eqn: Any, operands: list[Any], j: int, weight: Any) -> Any:
    """Zero, which hands back to operand `j` what it would if the adjoint that arrives were transposed."""
    alone = [delta(o) if k == j else lax.stop_gradient(o) for k, o in enumerate(operands)]
    (alone,) = bind(eqn, alone)
    return jnp.asarray(weight, alone.dtype) * jnp.swapaxes(alone, -1, -2)


def can_turn(eqn: Any) -> bool:
    """Whether what an equation gives could be taken for its transpose."""
    shape = eqn.outvars[0].aval.shape
    return eqn.primitive.name == "dot_general" and len(shape) >= 2 and shape[-1] == shape[-2]


def substituted(eqn: Any, operands: list[Any], j: int, value: Any) -> Any:
    """Zero, which hands back to operand `j` what it would with another local derivative or other factor."""
    name = eqn.primitive.name
    value = jnp.asarray(value, operands[1 - j if name in LINEAR else j].dtype)
    if name in LINEAR:
        both = [delta(o) if k == j else value for k, o in enumerate(operands)]
        return bind(eqn, both)[0]
    if name == "gather":
        return bind(eqn, [delta(operands[0]), *operands[1:]])[0] * value
    if name in EXTREMES:
        return jnp.sum(delta(operands[0]) * value, eqn.params["axes"])
    return delta(operands[j]) * value


class Turned:
    """In the place of a substitute: the true one, but the adjoint that arrives has its last two axes exchanged."""


class Factor(NamedTuple):
    """A weight for each entry of an operand, within scans for each step too; broadcast."""

    weights: Any


def replaced(site: _walk.Site, j: int, mine: Stored) -> Any:
    """What a substitute for operand `j` stands in the place of, where that is an array; else None."""
    name = site.eqn.primitive.name
    if j >= len(mine.operands) or not is_float(site.eqn.invars[j]) or substitute_shape(site, j) is None:
        return None
    if name in LINEAR or name == "mul":
        return np.asarray(mine.operands[1 - j])
    return slope_of(site.eqn, mine.operands[0]) if name in UNARY else None


def slope_of(eqn: Any, x: Any) -> np.ndarray:
    x, along = jax.device_put((x, np.ones_like(x)))
    return np.asarray(jax.jvp(lambda x: bind(eqn, [x])[0], (x,), (along,))[1])
