"""What the truth is taken from: autodiff without the derivative rules, in float64, and differences beside it."""

import contextlib
import types
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check import _numeric, _walk
from jaxnets.check._compiled import quickly, well
from jaxnets.check._kinks import Slopes, met
from jaxnets.check._names import Given, call, frames_of, fresh
from jaxnets.check._precision import as_float64, double, narrowest

NEAR = 1e-10  # values closer than this, relative to the largest, are taken for a tie
FULL = 4096  # entries up to which a leaf's gradient is built entry by entry where autodiff gives none
EVALUATIONS = 20_000  # of NumPy code that this may take
_NOISE = 2.0**-36  # relative size of the disturbance by which rounding is measured
CANNOT = (TypeError, ValueError, NotImplementedError, jax.errors.JAXTypeError, jax.errors.JAXIndexError)


class Reference:
    """The scalar function `f` at its arguments: value, gradients, and how far they can be relied on."""

    def __init__(self, f: Callable[..., Any], given: Given, who: str = "f"):
        self.f, self.given, self.who = f, given, who
        self.names = given.wanted
        self.notes: list[str] = []
        self._kinks: dict[float, tuple[Slopes | None, list[str]]] = {}
        self.own_value = _scalar(call(who, f, *given.fresh()), who)
        self.confirmed: set[str] = set()  # leaves whose gradient differences have borne out
        with self.precision():
            self._set(wide=True)
            try:
                self.value = float(self.at(self.x))
            except Exception as error:  # whatever hinders it: in its own precision it has just run
                self.wide = False
                self.notes.append(
                    f"{who} does not run in float64 ({type(error).__name__}): judged in its own precision"
                )
        if not self.wide:
            self._set(wide=False)
            self.value = float(self.at(self.x))
        if self.program is not None and not self._same_when_traced():
            self.program = None
            self._why_no_program = f"{who} is {self.value:.6g} when JAX traces it: differences are the only reference"
        self.numpy = self.program is None  # code that JAX does not trace, whichever it is
        self.value = float(self.at(self.x)) if self.numpy else self.value
        if self.numpy and self.twin is not None:
            self.program = self.twin
            self.notes.append(f"{who} is NumPy code: read as a program with jax.numpy in its place, same values")
        elif self.numpy:
            self.notes.append(self._why_no_program)
        self.eps = max(_numeric.EPS, narrowest(self.program) if self.program else self._roughness())
        if not np.isfinite(self.value):
            self.notes.append(f"{who} is {self.value} at these arguments: differences say nothing there")
        if self.eps > _numeric.EPS and self.wide:
            self.notes.append(f"{who} computes in a narrower float inside (eps {self.eps:.1e}); so does its reference")

    def _same_when_traced(self) -> bool:
        """Whether the program is what the code does: a question asked of a number may be answered otherwise of a
        tracer. Only looked at where the values give a reason to."""
        if np.isclose(self.own_value, self.value, rtol=0.01, equal_nan=True):
            return True
        with self.precision(), np.errstate(all="ignore"):
            return bool(np.isclose(float(self.f(*self._args(self.x))), self.value, rtol=1e-6, equal_nan=True))

    def one_by_one(self, leaf: int) -> bool:
        """Whether a leaf may be differentiated entry by entry: not too large. Work is counted and not timed, so that a
        report does not depend on how busy the machine is."""
        size = self.x[leaf].size
        return size <= FULL and (not self.numpy or 2 * _numeric.STEPS * size <= EVALUATIONS)

    def _roughness(self) -> float:
        """Of NumPy code it must be measured how precisely it computes: a cast within is seen in no other way."""
        seen = _numeric.roughness(self.near, self.x, self.value) if self.wide else 0.0
        return seen if seen > 1e3 * _numeric.EPS else 0.0

    @cached_property
    def jumps(self) -> bool:
        """Whether the function is another one in its own precision: it draws other random numbers there, say."""
        own, wide = self.own_value, self.value
        kind = max((np.dtype(getattr(a, "dtype", float)) for a in self.given.arrays()), key=lambda d: jnp.finfo(d).eps)
        near = max(0.01, 30 * float(jnp.finfo(kind).eps)) * max(abs(own), abs(wide))
        return bool(np.isfinite(own) and abs(own - wide) > near)

    wide = True
    numpy = False
    reverse = True  # until it is seen not to go through

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """Float64; the caller's own settings where `f` runs in nothing else."""
        return double() if self.wide else contextlib.nullcontext()

    def _set(self, wide: bool) -> None:
        leaves = [leaf for _, leaf in self.given.leaves]
        self.others = [as_float64(leaf) for leaf in leaves] if wide else leaves
        self.x = [np.asarray(self.others[k]) for k in self.given.chosen]
        if wide:
            self.x = [a.astype(np.float64) for a in self.x]
        self.__dict__.pop("_value", None)
        self.program = self._traced()

    def _traced(self):
        try:
            return _walk.trace(lambda leaves: jnp.asarray(self.f(*self._args(leaves))), jax.device_put(self.x))
        except Exception as error:  # NumPy code, or anything that needs its numbers: it is run as it is
            where = next(frames_of(error), None)
            line = f" at line {where.lineno}" if where else ""
            self._why_no_program = (
                f"{self.who} cannot be traced by JAX ({type(error).__name__}{line}): differences are the only reference"
            )
            return None

    _why_no_program = ""

    @cached_property
    def twin(self) -> Any:
        """NumPy code as a program, by running it with `jax.numpy` in `numpy`'s place; None where that does not go, or
        is not the same here and, so far as it is finite there, at points around.

        Differences are of the code itself all the same, and so bear out what autodiff makes of the program.
        """
        rng = _numeric.source(11)
        with self.precision(), np.errstate(all="ignore"):
            try:
                f = _with_jax_numpy(self.f)
                x = jax.device_put(self.x)
                program = _walk.trace(lambda leaves: jnp.asarray(f(*self._args(leaves))), x)
                value = well(lambda x: _walk.run(program, x)[0][0])
                for step in (0.0, 1e-6, 1e-3, 0.3, 0.3):
                    moved = [a + step * rng.normal(size=a.shape) * _numeric.size_of(a) for a in self.x]
                    ours, theirs = float(value(jax.device_put(moved))), self.near(moved)
                    close = abs(ours - theirs) <= 1e-10 * max(abs(ours), abs(theirs))
                    if not close and (step == 0 or np.isfinite(theirs)):
                        return None
            except Exception:  # it was worth a try
                return None
            return program

    def _args(self, leaves):
        return fresh(self.given.with_chosen(leaves, self.others))

    def at(self, x: list[Any]) -> Any:
        """The value of `f` at other numbers, its rules taken out."""
        with self.precision():
            if self.program is not None and not self.numpy:
                return self._value(jax.device_put(list(x)))
            kinds = [self.given.leaves[k][1] for k in self.given.chosen]
            like = [jax.device_put(a) if isinstance(k, jax.Array) else a for a, k in zip(x, kinds, strict=True)]
            return self.f(*self._args(like))

    def near(self, x: list[Any]) -> Any:
        """The same at numbers that differences lead to: NaN where NumPy code refuses them, which is told once."""
        if not self.numpy:
            with self.precision():
                return self._held_value(jax.device_put(list(x))) if self._stopped else self.at(x)
        try:
            with np.errstate(all="ignore"):
                return self.at(x)
        except Exception as error:  # the caller's code, at arguments that the caller did not choose
            told = f"{self.who} refuses arguments nearby ({type(error).__name__}: {error}): steps there are left out"
            if any(np.iscomplexobj(a) for a in x):
                raise  # it may refuse complex numbers without a word
            if told not in self.notes:
                self.notes.append(told)
            return np.nan

    @cached_property
    def _value(self):
        return well(lambda x: _walk.run(self.program, x)[0][0])

    @cached_property
    def gradients(self) -> list[np.ndarray | None]:
        """By autodiff without rules, in float64; None for what it could not give."""
        with self.precision():
            x = jax.device_put(self.x)
            if self.program is None:
                return [None] * len(x)

            def plain(x):
                return _walk.run(self.program, x)[0][0]

            try:
                return [np.asarray(g, np.float64) for g in well(jax.grad(plain))(x)]
            except CANNOT as error:
                first = str(error).split(".")[0]
                self.reverse = False
                self.notes.append(f"reverse mode does not go through {self.who} ({first}): forward mode instead")
            try:
                return [self._forward(plain, x, i) if a.size <= FULL else None for i, a in enumerate(x)]
            except CANNOT as error:
                self.notes.append(f"nor does forward mode ({str(error).split('.')[0]}): differences alone")
                return [None] * len(x)

    @staticmethod
    def _forward(plain, x, i):
        return np.asarray(well(jax.jacfwd(lambda a: plain([*x[:i], a, *x[i + 1 :]])))(x[i]), np.float64)

    @property
    def told(self) -> str:
        """What the truth was taken from."""
        if not self.by_autodiff:
            return "differences in float64"
        what = "autodiff with jax.numpy in NumPy's place" if self.numpy else "autodiff without rules"
        autodiff = f"{what}, in {'float64' if self.wide else 'its own precision'}"
        some = "" if len(self.confirmed) == len(self.names) else f" in {len(self.confirmed)} of {len(self.names)}"
        return autodiff + (f", confirmed by differences{some}" if self.confirmed else "")

    @property
    def by_autodiff(self) -> bool:
        """Whether there is a reference besides differences."""
        return any(g is not None for g in self.gradients)

    def slope(self, leaf: int, direction: np.ndarray, nearer: float = 1.0) -> _numeric.Slope:
        """The numeric derivative along a direction of one leaf, from so many times nearer than usual."""
        if not self.wide:  # differences of short numbers decide nothing
            return _numeric.Slope(np.nan, np.inf, np.nan, np.nan, False)
        with self.precision():
            unit = _numeric.size_of(self.x[leaf]) / nearer
            return _numeric.best_slope(self.near, self.x, leaf, direction, self.value, self.numpy, self.eps, unit)

    def entries(self, leaf: int) -> tuple[np.ndarray, ...]:
        """The numeric gradient of a leaf, entry by entry: value, bar, slopes from below and above."""
        with self.precision():
            return _numeric.gradient(self.near, self.x, leaf, self.value, self.numpy, self.eps)

    @cached_property
    def noise(self) -> list[float]:
        """For each leaf, how large the terms are that it sums: the effect of rounding on it, per unit of eps.

        The gradient's own program is run with every result disturbed a little. Where large terms cancel, the
        disturbance stays although the sum is small, which is how a gradient that is truly zero is told from noise.
        """
        if self.program is None or not self.by_autodiff:
            return [_numeric.EPS] * len(self.x)
        with self.precision():
            try:
                grad = _walk.trace(jax.grad(lambda x: _walk.run(self.program, x)[0][0]), jax.device_put(self.x))
            except CANNOT:
                return [0.0] * len(self.x)
            disturbed = quickly(lambda x, seed: _walk.run(grad, [_disturb(a, seed) for a in x], _Noise(seed))[0])
            found, ties = [0.0] * len(self.x), bool(self.kinks()[1]) or self.steps_in_it
            for seed in (1, 2):
                moved = disturbed(jax.device_put(self.x), np.int32(seed))
                for i, (g, true) in enumerate(zip(moved, self.gradients, strict=True)):
                    if true is None:
                        continue
                    off = np.abs(np.asarray(g) - true)
                    largest = float(np.max(np.abs(true), initial=0))
                    if ties:  # a change as large as the gradient itself is another winner or step, no rounding
                        off = off[(off <= 1e-3 * largest) | (off >= 1e3 * largest)]
                    found[i] = max(found[i], float(np.max(off[np.isfinite(off)], initial=0)) / max(_NOISE, self.eps))
            return found

    def kinks(self, near: float = NEAR) -> tuple[Slopes | None, list[str]]:
        """The slopes at the kinks met, if any, and what they are."""
        if near not in self._kinks:
            self._kinks[near] = self._kinks_within(near)
        return self._kinks[near]

    def _kinks_within(self, near: float) -> tuple[Slopes | None, list[str]]:
        if self.program is None:
            return None, []
        with self.precision():
            x = jax.device_put(self.x)
            blended, noted = met(self.program, x, near)
            told = [f"{k.count} at {describe(k.site)}" for k in blended] + [f"a tie at {describe(s)}" for s in noted]
            usable = blended and self.by_autodiff and self.reverse
            return (Slopes(self.program, x, blended, near) if usable else None), told

    @property
    def unread(self) -> list[str]:
        """Rules that are in it still."""
        return _walk.unread(self.program) if self.program is not None else []

    @property
    def steps_in_it(self) -> bool:
        """Whether it rounds to whole numbers somewhere: it may jump there."""
        return any(_is_step(s.eqn) for s in _walk.sites(self.program))

    @cached_property
    def stops(self) -> bool:
        """Whether `stop_gradient` stands in it where differences cannot hold what is stopped: in a `while`, and beside
        a linear solver, which stops what it factors and is differentiated through its product."""
        solves = any(s.eqn.primitive.name == "custom_linear_solve" for s in self._sites)
        return any(s.looped or solves for s in self._stop_sites) or any(
            s.eqn.primitive.name == "shard_map" and _walk.stops_within(s.eqn) for s in self._sites
        )

    @property
    def _sites(self) -> list[_walk.Site]:
        return list(_walk.sites(self.program)) if self.program is not None else []

    @cached_property
    def _stop_sites(self) -> list[_walk.Site]:
        return [s for s in self._sites if s.eqn.primitive.name == "stop_gradient"]

    @cached_property
    def _stopped(self) -> dict[_walk.Place, Any]:
        """What stands behind each `stop_gradient` at the arguments: differences hold it, as autodiff does."""
        if self.stops or not self._stop_sites:
            return {}
        self.notes.append(f"stop_gradient in {self.who} is honoured: differences hold what it stops")
        return well(lambda x: _walk.run(self.program, x, _keep_stopped)[1])(jax.device_put(self.x))

    @cached_property
    def _held_value(self):
        return well(lambda x: _walk.run(self.program, x, _keep_stopped, self._stopped)[0][0])


def _keep_stopped(place, eqn, operands, given):
    """A visitor that hands out what is stopped, or puts in what was handed out."""
    if eqn.primitive.name != "stop_gradient":
        return _walk.plain(place, eqn, operands, given)
    if given is not None:
        return [given], None
    out = _walk.bind(eqn, operands)
    return out, out[0]


def _is_step(eqn: Any) -> bool:
    """Whether an equation's results go by steps."""
    to_integer = eqn.primitive.name == "convert_element_type" and not _walk.is_float(eqn.outvars[0])
    return eqn.primitive.name in ("floor", "ceil", "round", "sign") or (to_integer and _walk.is_float(eqn.invars[0]))


def _with_jax_numpy(f: Any) -> Any:
    """A copy of a function, and of those of its file that it calls, in which `numpy` is `jax.numpy`."""
    if not isinstance(f, types.FunctionType):
        raise TypeError("not a plain function")
    names = dict(f.__globals__)
    for name, value in f.__globals__.items():
        if value is np:
            names[name] = jnp
        elif isinstance(value, types.FunctionType) and value.__globals__ is f.__globals__:
            names[name] = _copied(value, names)
        elif callable(value) and (getattr(value, "__module__", "") or "").startswith("numpy"):  # from numpy import exp
            names[name] = getattr(jnp, getattr(value, "__name__", ""), value)
    return _copied(f, names)


def _copied(f: types.FunctionType, names: dict[str, Any]) -> types.FunctionType:
    """The same function among other global names."""
    copy = types.FunctionType(f.__code__, names, f.__name__, f.__defaults__, f.__closure__)
    copy.__kwdefaults__ = f.__kwdefaults__
    return copy


def _scalar(value: Any, who: str) -> float:
    if value is None or isinstance(value, tuple | list | dict):
        raise TypeError(f"check: {who} must return one number; got {type(value).__name__}. Return the loss alone.")
    array = np.asarray(value)
    if array.shape != ():
        raise ValueError(f"check: {who} must return one number; got shape {array.shape}. Sum it, or take its mean.")
    if array.dtype.kind == "c":
        raise TypeError(f"check: {who} must return a real number; got {array.dtype}")
    return float(array)


def describe(site: _walk.Site) -> str:
    """An equation by its primitive and source line."""
    where = _walk.line_of(site.eqn)
    return site.eqn.primitive.name + (f" (line {where[1]})" if where else "")


class _Noise:
    """A visitor that disturbs every floating result by a pseudo-random relative error."""

    def __init__(self, seed: Any):
        self.seed = seed

    def __call__(self, place, eqn, operands, given):
        out = _walk.bind(eqn, operands)
        if eqn.primitive.name in _EXACT:
            return out, None
        return [_disturb(v, self.seed) if _walk.is_float(v) else v for v in out], None


_EXACT = {
    *("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "dynamic_slice", "gather", "concatenate", "neg"),
    *("max", "min", "select_n", "name", "copy", "stop_gradient", "iota", "reduce_max", "reduce_min", "rev", "pad"),
    *(
        "convert_element_type",
        "abs",
        "sign",
        "floor",
        "round",
        "sort",
        "argmax",
        "clamp",
        "copy_p",
        "optimization_barrier",
    ),
}


def _disturb(x, seed):
    # A hash of the value's own bits: as good as random here, cheap, and ties stay ties.
    if x.dtype != jnp.float64:
        return x
    bits = jax.lax.bitcast_convert_type(x, jnp.uint64) + jnp.uint64(0x9E3779B97F4A7C15) * jnp.uint64(seed)
    bits = (bits ^ (bits >> jnp.uint64(29))) * jnp.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> jnp.uint64(32))) * jnp.uint64(0x94D049BB133111EB)
    unit = (bits >> jnp.uint64(40)).astype(jnp.float64) / 2.0**23 - 1.0
    return x * (1.0 + _NOISE * unit)
