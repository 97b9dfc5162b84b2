"""Leaves by the names that their author gave them: `params.W`, `params[0].W`, `x`; and whose values came back."""

import contextlib
import copy
import inspect
import linecache
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from jaxnets.check._report import CallerError


def argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """What `f` calls its first `count` arguments."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # a builtin tells nothing
        return [f"args[{i}]" for i in range(count)]
    names = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    return (names + [f"args[{i}]" for i in range(len(names), count)])[:count]


def key_text(key: Any) -> str:
    """One step into a pytree, as it is written in Python."""
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            value = getattr(key, attribute)
            return f".{value}" if isinstance(value, str) and value.isidentifier() else f"[{value!r}]"
    return str(key)


def leaves_of(name: str, tree: Any) -> list[tuple[str, Any]]:
    """The leaves of one argument with their names."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(name + "".join(map(key_text, path)), leaf) for path, leaf in paths]


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is something to take a derivative by."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) if dtype is None else bool(jnp.issubdtype(dtype, jnp.floating))


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a key for random numbers, which is no number itself."""
    return bool(jnp.issubdtype(getattr(leaf, "dtype", np.float64), jax.dtypes.extended))


class Given:
    """The arguments of a function: their leaves by name, and copies of the arguments with other leaves."""

    def __init__(self, f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int] | None):
        if not isinstance(args, list | tuple):
            raise TypeError(
                f"check: args must be a tuple of the function's arguments; got {type(args).__name__}. "
                "For a single argument write (x,)."
            )
        self.args, self.single = tuple(args), isinstance(argnums, int)
        numbers = range(len(args)) if argnums is None else [argnums] if isinstance(argnums, int) else argnums
        if isinstance(numbers, str) or not all(isinstance(i, int) for i in numbers):
            raise TypeError(f"check: argnums must be a number, several, or None; got {argnums!r}")
        if any(not -len(args) <= i < len(args) for i in numbers):
            raise ValueError(f"check: argnums must lie within the {len(args)} arguments; got {argnums!r}")
        self.argnums = [i % len(args) for i in numbers]
        self.names = argument_names(f, len(args))
        self.leaves: list[tuple[str, Any]] = []  # every leaf of every argument
        self.chosen: list[int] = []  # which of them are to have gradients
        numbers_of: list[list[int]] = []
        for name, arg in zip(self.names, args, strict=True):
            numbers_of.append([])
            for leaf in leaves_of(name, arg):
                if is_floating(leaf[1]):
                    numbers_of[-1].append(len(self.leaves))
                self.leaves.append(leaf)
        self.chosen = [k for i in self.argnums for k in numbers_of[i]]  # in the order asked for
        if not self.chosen:
            which = ", ".join(self.names[i] for i in self.argnums) or "args"
            asked = [leaf for i in self.argnums for leaf in jax.tree.leaves(self.args[i])]
            kinds = sorted({str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in asked})
            raise TypeError(
                f"check: {which} must hold floating numbers to differentiate by; got {', '.join(kinds) or 'nothing'}"
            )
        self.structure = jax.tree.structure(self.args)

    def only(self, argument: str) -> "Given":
        """The same, with gradients by one argument alone."""
        other = copy.copy(self)
        other.argnums, other.single = [self.names.index(argument)], True
        other.chosen = [k for k, i in enumerate(self._of_argument()) if [i] == other.argnums and k in self.chosen]
        return other

    def arguments_named(self, keys: Iterable[Any]) -> set[int]:
        """The numbers of the arguments that keys of a dict mean, or leaves of which they mean."""
        owner = dict(zip([name for name, _ in self.leaves], self._of_argument(), strict=True))
        owner |= {name: i for i, name in enumerate(self.names)}
        words = [key for key in keys if isinstance(key, str)]
        meant = [names_matching(word, self.names) or names_matching(word, self.wanted) for word in words]
        return {owner[name] for names in meant for name in names}

    def _of_argument(self) -> list[int]:
        """The number of each leaf's argument."""
        return [i for i, arg in enumerate(self.args) for _ in jax.tree.leaves(arg)]

    def data(self) -> list[int]:
        """The leaves that are data: of arguments not differentiated by; where all are, of all but the first."""
        parameters = set(self.argnums) if len(self.argnums) < len(self.args) else {0}
        return [k for k, i in enumerate(self._of_argument()) if i not in parameters]

    def fresh(self) -> tuple[Any, ...]:
        """The arguments with NumPy arrays of their own: whoever writes into them changes nothing here."""
        return fresh(self.args)

    @property
    def wanted(self) -> list[str]:
        """Names of the leaves that are to have gradients."""
        return [self.leaves[k][0] for k in self.chosen]

    def arrays(self) -> list[Any]:
        """The chosen leaves."""
        return [self.leaves[k][1] for k in self.chosen]

    def with_chosen(self, values: Sequence[Any], others: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """The arguments, with other values for the chosen leaves."""
        flat = list(others) if others is not None else [leaf for _, leaf in self.leaves]
        for k, value in zip(self.chosen, values, strict=True):
            flat[k] = value
        return jax.tree.unflatten(self.structure, flat)


def fresh(tree: Any) -> Any:
    """A copy of a pytree and of the NumPy arrays in it."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def match(returned: Any, given: Given, who: str = "by_hand") -> tuple[dict[str, Any], list[str]]:
    """Name -> value of what came back for each leaf wanted (absent where nothing did), and remarks.

    By name where there are names (a dict's keys, a NamedTuple's fields), and then by nothing else; without names in the
    order in which the caller wrote them down.
    """
    wanted = given.wanted
    trees = [given.args[i] for i in given.argnums]
    expected = trees[0] if given.single else tuple(trees)
    same = jax.tree.structure(_floats_only(expected)) == jax.tree.structure(returned)
    if not same:  # numbers in nested lists are arrays, if the leaves are not themselves in lists
        returned = jax.tree.map(lambda a: np.array(a) if _is_numbers(a) else a, returned, is_leaf=_is_numbers)
        same = jax.tree.structure(_floats_only(expected)) == jax.tree.structure(returned)
    values = jax.tree.leaves(returned)
    if same and len(values) == len(wanted):
        return dict(zip(wanted, values, strict=True)), []
    unnamed = all(hasattr(key, "idx") for path, _ in jax.tree_util.tree_leaves_with_path(returned) for key in path)
    if unnamed and len(values) == len(wanted):
        return dict(zip(_as_written(given), values, strict=True)), []
    found, spare = _by_name(returned, given)
    if unnamed and not found:
        found = dict(zip(_as_written(given), values, strict=False))
        spare = [f"number {i}" for i in range(len(found), len(values))]
    missing = [name for name in wanted if name not in found]
    if spare and missing and not unnamed:
        raise ValueError(
            f"check: {who} returned {', '.join(spare)}, which names no single leaf; nothing came back for "
            f"{', '.join(missing)}. A gradient goes by the name of its leaf (w, dw, grad_w, gw, w_grad, w_bar)."
        )
    remarks = []
    if spare:
        hint = "; is argnums right?" if len(spare) + len(found) > len(wanted) else ""
        remarks.append(f"{who} also returned {', '.join(spare)}, for which there is no leaf{hint}")
    return found, remarks


def _as_written(given: Given) -> list[str]:
    """The leaves wanted; those of a dict in its own order, not in the alphabet's, which is JAX's."""

    def walked(name: str, tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield from walked(name + key_text(jax.tree_util.DictKey(key)), value)
        elif isinstance(tree, list | tuple):
            keys = [jax.tree_util.GetAttrKey(f) for f in getattr(tree, "_fields", ())] or [
                jax.tree_util.SequenceKey(i) for i in range(len(tree))
            ]
            for key, value in zip(keys, tree, strict=True):
                yield from walked(name + key_text(key), value)
        else:
            yield from (leaf for leaf, _ in leaves_of(name, tree))

    order = [leaf for i in given.argnums for leaf in walked(given.names[i], given.args[i])]
    return sorted(given.wanted, key=order.index)


def _is_numbers(tree: Any) -> bool:
    return isinstance(tree, list) and bool(tree) and all(isinstance(a, int | float) or _is_numbers(a) for a in tree)


def _floats_only(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, tree)


def _by_name(returned: Any, given: Given) -> tuple[dict[str, Any], list[str]]:
    found, spare = {}, []
    for path, value in jax.tree_util.tree_leaves_with_path(returned):
        parts = list(path)
        name = ""
        if not given.single and parts and hasattr(parts[0], "idx") and parts[0].idx < len(given.argnums):
            name = given.names[given.argnums[parts.pop(0).idx]]  # one entry an argument
        elif parts and isinstance(getattr(parts[0], "key", None), str):
            key = parts.pop(0)  # a dict's key may itself be a name such as "params.W"
            name = key.key if names_matching(key.key, given.wanted) else key_text(key)
        name = (name + "".join(map(key_text, parts))).removeprefix(".")
        fits = names_matching(name, given.wanted) if name and not re.match(r"\[\d", name) else []
        if len(fits) == 1 and fits[0] not in found:
            found[fits[0]] = value
        else:
            spare.append(name or "an array")
    return found, spare


def names_matching(part: str, names: Sequence[str]) -> list[str]:
    """The names that `part` may mean: itself, or those that end with it; else those whose gradient is called so."""
    if part in names:
        return [part]
    ending = [n for n in names if _ends_with(n, part)]
    return ending or [n for n in names if any(_ends_with(called, part) for called in _gradients_of(n))]


def _ends_with(name: str, part: str) -> bool:
    """With whole parts of it: `params.W` with `W`, not with `.W2` or `s.W`."""
    if not part or not name.endswith(part):
        return False
    return name == part or part[0] in ".[" or name[-len(part) - 1] in "."


# What people call the gradient by w.
_AROUND = ("d{}", "d_{}", "g{}", "g_{}", "grad{}", "grad_{}", "{}_grad", "{}grad", "{}_bar", "{}bar", "{}_g", "{}_d")
_AROUND += ("dL_d{}", "dl_d{}", "dloss_d{}", "dJ_d{}", "delta_{}")


def _gradients_of(name: str) -> list[str]:
    """`params.dW`, `params.grad_W` and so on, for `params.W`."""
    before, dot, last = name.rpartition(".")
    return [before + dot + around.format(last) for around in _AROUND]


_OURS = tuple(os.path.dirname(m.__file__ or "") + os.sep for m in (jax, jaxlib, np)) + (contextlib.__file__, "<frozen")


def is_library(file: str) -> bool:
    """Whether a file belongs to JAX, NumPy or this package, and not to the caller."""
    return file.startswith(_OURS) or os.path.dirname(file) == os.path.dirname(__file__)


def frames_of(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """The caller's own frames in an error, innermost first: neither ours nor those of JAX and NumPy."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library(frame.filename):
            yield frame


def call(who: str, function: Callable[..., Any], *args: Any) -> Any:
    """Run the caller's code; an error in it is told as theirs, with their line."""
    try:
        return function(*args)
    except Exception as error:
        frame = next(frames_of(error), None)
        where = f" at {frame.filename} line {frame.lineno}, in {frame.name}: `{frame.line}`" if frame else ""
        raise CallerError(
            f"{who} raised {type(error).__name__}{where}\n{_first_lines(error)}{_shapes_in(error)}"
        ) from error


def _shapes_in(error: BaseException) -> str:
    """The shapes of the arrays that stand in the caller's line."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_library(code.co_filename):
            line = linecache.getline(code.co_filename, trace.tb_lineno)
            known = {}
            for word in re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", line):
                name, *attributes = word.split(".")
                value = trace.tb_frame.f_locals.get(name)
                for n, attribute in enumerate(attributes):
                    inside = getattr(value, "_fields", ()) or getattr(value, "__dict__", {})
                    if attribute not in inside:
                        word = ".".join([name, *attributes[:n]])
                        break
                    value = getattr(value, attribute)
                shape = getattr(value, "shape", None)
                if shape is not None:
                    known[word] = f"{word} {tuple(shape)}"
            found = ", ".join(known.values()) or found
        trace = trace.tb_next
    return f"\nthere: {found}" if found else ""


def _first_lines(error: BaseException, count: int = 6) -> str:
    text = str(error).split("--------------------")[0].strip()
    return "\n".join(text.splitlines()[:count])
