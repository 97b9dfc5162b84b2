"""Proves the corpus: every right backward pass agrees with autodiff, every mutant does not.

    python -m benchmarks.mutants.verify [--seeds 3]

In float64. Gradients of JAX functions are held against `jax.grad`, those of NumPy functions against a five-point
stencil, derivations line by line against the gradients of zeros added at each mark. For a derivation's mutant also:
each line is computed by autodiff from the mutant's own later lines, and the first that differs is the one named.
Right functions must also run in lower precision, at both sizes, finite and in their own dtype.
"""

import argparse
import sys
from collections import Counter
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mutants import DERIVATIONS, KINDS, MUTANTS, SUBJECTS, make
from benchmarks.mutants.core import Derivation, Mutant, Subject
from jaxnets import check

AGREE, DIFFER = 1e-9, 1e-4
Leaves = dict[str, Any]


def leaves(tree: Any) -> Leaves:
    """Leaves by key path; None counts as one, since a gradient of None is an answer."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def stencil(f: Any, args: tuple[Any, ...], argnum: int) -> Any:
    """Gradient of a NumPy function, entry by entry, by a five-point stencil."""
    flat, tree = jax.tree.flatten(args)
    own = range(*np.cumsum([0] + [len(jax.tree.leaves(a)) for a in args])[[argnum, argnum + 1]])
    grads = []
    for n in own:
        grad = np.zeros(np.shape(flat[n]))
        for index in np.ndindex(grad.shape):

            def at(step, n=n, index=index):
                moved = np.array(flat[n])
                moved[index] += step
                return f(*tree.unflatten([*flat[:n], moved, *flat[n + 1 :]]))

            h = 1e-3
            grad[index] = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        grads.append(grad)
    return jax.tree.unflatten(jax.tree.structure(args[argnum]), grads)


def _is_plain(args: tuple[Any, ...]) -> bool:
    return all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(args))


def gradient(subject: Subject, args: tuple[Any, ...]) -> Leaves:
    """True gradients."""
    if _is_plain(args):
        argnums = subject.argnums
        if isinstance(argnums, int):
            return leaves(stencil(subject.f, args, argnums))
        return leaves(tuple(stencil(subject.f, args, argnum) for argnum in argnums))
    return leaves(jax.grad(subject.f, subject.argnums)(*args))


@jax.custom_vjp
def _replace(x, given):
    """x, whose adjoint is replaced by a given one."""
    return x


_replace.defvjp(lambda x, given: (x, given), lambda given, _: (given, jnp.zeros_like(given)))


def adjoints(subject: Derivation, args: tuple[Any, ...], given: Leaves | None = None) -> Leaves:
    """Adjoints of marks and of every leaf of the arguments; `given` adjoints stand in for those of the marks.

    Loops run step by step, so that a mark within one is met once a step; its rows are then stacked.
    """
    flat, tree = jax.tree.flatten(args)
    names = [path.replace("[", ".").replace("]", "").split(".")[-1] for path in _paths(subject, args)]
    moving = [n for n, leaf in enumerate(flat) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    met: dict[str, list[Any]] = {}

    def loss(probes, values):
        count = Counter()

        def mark(name, x):
            k = count[name]
            count[name] += 1
            if probes is None:
                met.setdefault(name, []).append(jnp.zeros_like(x))
                return x
            if given is not None and name in given:
                row = given[name] if len(met[name]) == 1 else given[name][k]
                x = _replace(x, jnp.asarray(row, x.dtype).reshape(x.shape))
            return x + probes[name][k]

        full = list(flat)
        for n, value in zip(moving, values, strict=True):
            full[n] = value
        with patch.object(check, "mark", mark), jax.disable_jit():
            return subject.forward(*tree.unflatten(full))

    values = [flat[n] for n in moving]
    loss(None, values)
    probe_bars, bars = jax.grad(loss, argnums=(0, 1))(met, values)
    lines = {name: jnp.stack(rows) if len(rows) > 1 else rows[0] for name, rows in probe_bars.items()}
    return lines | {names[n]: bar for n, bar in zip(moving, bars, strict=True)}


def _paths(subject: Derivation, args: tuple[Any, ...]) -> list[str]:
    code = subject.forward.__code__
    named = dict(zip(code.co_varnames[: code.co_argcount], args, strict=True))
    return [name + path for name, value in named.items() for path in leaves(value)]


def marks(subject: Derivation, args: tuple[Any, ...]) -> list[str]:
    """Marks in the order in which the forward pass last meets them."""
    order: dict[str, None] = {}

    def mark(name, x):
        order.pop(name, None)
        order[name] = None
        return x

    with patch.object(check, "mark", mark), jax.disable_jit():
        subject.forward(*args)
    return list(order)


def errors(found: Leaves, true: Leaves) -> dict[str, float]:
    """Relative error of each leaf; inf for a missing one or another shape, NaN for one that is not finite.

    A leaf whose true gradient is zero is measured by the largest leaf.
    """
    largest = max(float(np.max(np.abs(leaf))) for leaf in true.values())
    result = {}
    for name in true.keys() | found.keys():
        a, b = found.get(name), true.get(name)
        if a is None or b is None or np.shape(a) != np.shape(b):
            result[name] = np.inf
            continue
        scale = float(np.max(np.abs(b)))
        error = float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
        result[name] = error / (scale if scale > 1e-9 * largest else largest) if np.isfinite(error) else np.nan
    return result


def answer(subject: Subject | Derivation, backward: Any, args: tuple[Any, ...]) -> Leaves:
    found = backward(*args)
    return dict(found) if isinstance(subject, Derivation) else leaves(found)


def truth(subject: Subject | Derivation, args: tuple[Any, ...]) -> Leaves:
    return adjoints(subject, args) if isinstance(subject, Derivation) else gradient(subject, args)


def _compared(found: Leaves, true: Leaves, right: Leaves) -> dict[str, float]:
    """Errors of the lines that the right backward pass returns (a derivation may leave some out)."""
    return errors(found, {name: true[name] for name in right})


def agreement(subject: Subject | Derivation, args: tuple[Any, ...], where: str) -> list[str]:
    found = answer(subject, subject.backward, args)
    wrong = {name: error for name, error in _compared(found, truth(subject, args), found).items() if not error < AGREE}
    return [f"{subject.name} ({where}): {wrong}"] if wrong else []


def complaints_about_right(subject: Subject | Derivation) -> list[str]:
    """Large arguments and low precision; a stencil over large ones and bfloat16 are left out for NumPy."""

    def draw(dtype, size):
        return subject.args(np.random.default_rng(0), dtype, size)

    plain = _is_plain(draw(jnp.float64, "small"))
    said = [] if plain else agreement(subject, draw(jnp.float64, "large"), "large")
    for dtype in (jnp.float32, jnp.float16) if plain else (jnp.float32, jnp.float16, jnp.bfloat16):
        for size in ("small", "large"):
            for name, leaf in answer(subject, subject.backward, draw(dtype, size)).items():
                if leaf.dtype != dtype or not np.all(np.isfinite(np.asarray(leaf, np.float64))):
                    said.append(f"{subject.name} ({size}): {name} is {leaf.dtype} or not finite in {dtype.__name__}")
    return said


def complaints_about(mutant: Mutant, args: tuple[Any, ...], true: Leaves, right: Leaves) -> list[str]:
    subject = mutant.subject
    with np.errstate(all="ignore"):
        found = answer(subject, make(mutant), args)
    error = _compared(found, true, right)
    values = list(error.values())
    said = []
    if not any(not e < DIFFER for e in values):
        said.append(f"changes nothing: {error}")
    if any(np.isinf(values)) != ("shape" in mutant.kinds):
        said.append(f"shape is {'' if 'shape' in mutant.kinds else 'not '}named: {error}")
    if any(np.isnan(values)) != ("nan" in mutant.kinds):
        said.append(f"nan is {'' if 'nan' in mutant.kinds else 'not '}named: {error}")
    if not mutant.kinds or not mutant.kinds <= KINDS:
        said.append(f"unknown kinds {mutant.kinds}")
    if isinstance(subject, Derivation):
        order = [name for name in reversed(marks(subject, args)) if name in right]
        fitting = {name: found[name] for name in order if error[name] != np.inf}
        error = _compared(found, adjoints(subject, args, fitting), right)
        own = {name for name, e in error.items() if not e < DIFFER}
        first = next((name for name in order if name in own), None)
        if mutant.first not in own or (first or mutant.first) != mutant.first:
            said.append(f"first is {mutant.first}, wrong in themselves: {own}")
    elif mutant.first is not None:
        said.append("a gradient has no first line")
    return [f"{mutant.name}: {what}" for what in said]


def main() -> int:
    parser = argparse.ArgumentParser(description="Prove that the corpus is what it says.")
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    jax.config.update("jax_enable_x64", True)
    said = []
    for subject in [*SUBJECTS, *DERIVATIONS]:
        own = [mutant for mutant in MUTANTS if mutant.subject is subject]
        said += complaints_about_right(subject)
        for seed in range(seeds):
            args = subject.args(np.random.default_rng(seed), jnp.float64, "small")
            said += agreement(subject, args, f"seed {seed}")
            true, right = truth(subject, args), answer(subject, subject.backward, args)
            for mutant in own:
                said += complaints_about(mutant, args, true, right)
        print(f"{len(own):4}  {subject.name}", flush=True)
    kinds = Counter(kind for mutant in MUTANTS for kind in mutant.kinds)
    print(f"{len(MUTANTS):4}  mutants; " + ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(KINDS)))
    print("\n".join(said) or "all as it should be")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
