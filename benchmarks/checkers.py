"""`jaxnets.check` beside JAX's `check_grads` and PyTorch's `gradcheck`, on the same right and wrong gradients.

    python -m benchmarks.checkers [--limit N] [--seeds N] [--json] [--verbose]

Each sees the gradient subjects of `benchmarks.mutants` as its users would hand them over: `check_grads` as a function
with a `custom_vjp` rule, in float32 and JAX's default settings; `gradcheck` as an `autograd.Function`, in float64; both
with their default tolerances. A mutant is detected if a checker says no or raises, whatever the error; `jaxnets.check`
must say no. Ties are planted in some subjects; alarms at them are counted like all others.
"""

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from benchmarks.mutants import MUTANTS, SUBJECTS, Mutant, Subject, make
from benchmarks.mutants.__main__ import drawn, judge, report_on
from jaxnets.check._names import Given, match

OURS, JAX, TORCH = "jaxnets.check", "check_grads", "gradcheck"
DTYPES = {OURS: ("float32", "float64"), JAX: ("float32", "float64"), TORCH: ("float64",)}  # mutants: in the first
WHICH = {OURS: "leaf by name", JAX: "no", TORCH: "input number"}  # what a failure tells of the place
Verdict = tuple[str, str]  # passed, failed or cannot run; and what was said


def ours(subject: Subject, backward: Callable[..., Any], args: tuple[Any, ...]) -> Verdict:
    report = report_on(subject, backward, args)
    return ("failed" if report.wrong else "passed"), str(report)


def by_jax(subject: Subject, backward: Callable[..., Any], args: tuple[Any, ...]) -> Verdict:
    """A leaf for which nothing came back gets None, which is JAX's word for zero."""
    given = Given(subject.f, args, subject.argnums)

    @jax.custom_vjp
    def f(*leaves):
        return subject.f(*given.with_chosen(leaves))

    def bwd(leaves, cotangent):
        found, _ = match(backward(*given.with_chosen(leaves)), given)
        return tuple(cotangent * found[name] if name in found else None for name in given.wanted)

    f.defvjp(lambda *leaves: (f(*leaves), leaves), bwd)
    try:
        jax.eval_shape(f, *given.arrays())
    except jax.errors.TracerArrayConversionError as error:
        return "cannot run", str(error)  # NumPy code cannot be traced, and so cannot have a rule that jit accepts
    check_grads(f, tuple(given.arrays()), order=1, modes=("rev",))
    return "passed", ""


def by_torch(subject: Subject, backward: Callable[..., Any], args: tuple[Any, ...]) -> Verdict:
    """A leaf for which nothing came back gets None, which is PyTorch's word for zero."""
    import torch

    given = Given(subject.f, args, subject.argnums)
    kinds = [np.array if isinstance(leaf, np.ndarray) else jnp.asarray for leaf in given.arrays()]

    def value(*leaves):
        return subject.f(*given.with_chosen(leaves))

    # gradcheck calls the function twice an entry: compiled, or it would take minutes
    fast = value if np.array in kinds else jax.jit(value)

    def tensor(array):
        return torch.from_numpy(np.array(array, np.float64))  # a copy: JAX's own memory must not be written to

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            return tensor(fast(*leaves_of(tensors)))

        @staticmethod
        def backward(ctx, *cotangents):
            found, _ = match(backward(*given.with_chosen(leaves_of(ctx.saved_tensors))), given)
            return tuple(cotangents[0] * tensor(found[name]) if name in found else None for name in given.wanted)

    def leaves_of(tensors):
        return [kind(t.detach().numpy()) for kind, t in zip(kinds, tensors, strict=True)]

    torch.autograd.gradcheck(Function.apply, [tensor(leaf).requires_grad_() for leaf in given.arrays()])
    return "passed", ""


CHECKERS = {OURS: ours, JAX: by_jax, TORCH: by_torch}


def verdict(checker: str, subject: Subject, backward: Callable[..., Any], seed: int, dtype: str) -> Verdict:
    # for float32, `check_grads` has JAX's default settings
    with jax.enable_x64(checker != JAX or dtype == "float64"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong gradients divide by zero, and each library warns in its own way
        args = drawn(subject, seed, dtype)
        try:
            return CHECKERS[checker](subject, backward, args)
        except Exception as error:
            return "failed", f"{type(error).__name__}: {error}"


def on_mutant(checker: str, mutant: Mutant) -> dict[str, Any]:
    assert isinstance(mutant.subject, Subject)
    begin, explained, text = time.perf_counter(), False, ""
    if checker != OURS:
        said, text = verdict(checker, mutant.subject, make(mutant), 0, DTYPES[checker][0])
    else:
        try:
            found = judge(mutant)
            said, explained = "failed" if found["detected"] else "passed", found["caused"]
        except Exception as error:  # it promises a report: an error of its own is no detection
            said, text = "crashed", f"{type(error).__name__}: {error}"
    row = {"checker": checker, "mutant": mutant.name, "subject": mutant.subject.name, "verdict": said, "text": text}
    return row | {"explained": explained, "seconds": round(time.perf_counter() - begin, 3)}


def on_right(seeds: int) -> Iterator[dict[str, Any]]:
    """What each checker says of every right function."""
    for subject in SUBJECTS:
        for checker, dtypes in DTYPES.items():
            for dtype in dtypes:
                for seed in range(seeds):
                    said, text = verdict(checker, subject, subject.by_hand, seed, dtype)
                    row = {"checker": checker, "subject": subject.name, "dtype": dtype, "seed": seed}
                    yield row | {"verdict": said, "text": text}


def summary(checker: str, mutants: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[str]:
    """One line of the table. What a checker cannot run is left out of its counts."""
    ran = [row for row in mutants if row["checker"] == checker and row["verdict"] != "cannot run"]
    fair = [row for row in right if row["checker"] == checker and row["verdict"] != "cannot run"]
    seen = [row for row in ran if row["verdict"] == "failed"]
    alarms = [row for row in fair if row["verdict"] == "failed"]
    # of a subject whose right function fails in the same draw, a failing mutant tells nothing
    lost = {row["subject"] for row in alarms if row["seed"] == 0 and row["dtype"] == DTYPES[checker][0]}
    told = sum(row["subject"] not in lost for row in seen)
    return [
        checker,
        f"{len(seen)} of {len(ran)}",
        f"{told} of {len(ran)}" if fair else "-",
        str(sum(row["checker"] == checker for row in mutants) - len(ran)),
        f"{len(alarms)} of {len(fair)}",
        WHICH[checker],
        f"{sum(row['explained'] for row in ran)} of {len(ran)}" if checker == OURS else "no",
        f"{np.median([row['seconds'] for row in ran] or [0]):.2f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="jaxnets.check beside check_grads and gradcheck.")
    parser.add_argument("--limit", type=int, default=0, help="about so many mutants, evenly chosen (0: all)")
    parser.add_argument("--seeds", type=int, default=5, help="draws of every right function, for the false alarms")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no table")
    parser.add_argument("--verbose", action="store_true", help="name what was not detected, and the false alarms")
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("benchmarks.checkers compares with PyTorch, which is not installed: pip install 'jaxnets[bench]'")
    jax.config.update("jax_enable_x64", True)
    chosen = [mutant for mutant in MUTANTS if isinstance(mutant.subject, Subject)]
    chosen = chosen[:: max(1, len(chosen) // options.limit)] if options.limit > 0 else chosen
    total = len(chosen) * len(CHECKERS) + len(SUBJECTS) * sum(map(len, DTYPES.values())) * options.seeds

    def told(rows: Iterator[dict[str, Any]], done: int) -> list[dict[str, Any]]:
        kept = []
        for row in rows:
            kept.append(row)
            if options.json:
                print(json.dumps(row), flush=True)
            if sys.stderr.isatty():
                last = done + len(kept) == total
                print(f"\r{done + len(kept)} of {total}", end="\n" if last else "", file=sys.stderr, flush=True)
        return kept

    mutants = told((on_mutant(checker, mutant) for mutant in chosen for checker in CHECKERS), 0)
    right = told(on_right(options.seeds), len(mutants))
    if options.json:
        return 0
    head = ["checker", "detected", "told apart", "cannot run", "false alarms", "located", "explained", "seconds"]
    widths = [15, 13, 13, 12, 15, 14, 13, 7]
    for line in [head, *(summary(checker, mutants, right) for checker in CHECKERS)]:
        print("".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    print("told apart: detected, and the right function passes in the same draw; seconds: median of a mutant")
    for row in [*mutants, *right] if options.verbose else []:
        if "mutant" in row and row["verdict"] in ("passed", "crashed"):
            print(f"{row['checker']}: not detected: {row['mutant']} {row['text'].partition(chr(10))[0]}".rstrip())
        elif "seed" in row and row["verdict"] == "failed":
            print(f"{row['checker']}: false alarm: {row['subject']}, {row['dtype']}, seed {row['seed']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
