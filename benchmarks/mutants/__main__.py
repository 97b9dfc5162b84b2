"""The mutation score of `jaxnets.check`: how many mistakes it sees, locates and explains, and its false alarms.

    python -m benchmarks.mutants [--only TEXT] [--seeds N] [--json]

Every mutant is checked once; every right function in each dtype, at both sizes, over `--seeds` seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mutants import DERIVATIONS, MUTANTS, SUBJECTS, Derivation, Mutant, Subject, make
from jaxnets import check

DTYPES = ("float64", "float32", "bfloat16", "float16")


def report_on(subject: Subject | Derivation, backward: Any, args: tuple[Any, ...]) -> check.Report:
    if isinstance(subject, Derivation):
        return check.derivation(subject.forward, backward, args)
    return check.gradient(subject.f, backward, args, subject.argnums)


def drawn(subject: Subject | Derivation, seed: int, dtype: str = "float32", size: Any = "small") -> tuple[Any, ...]:
    return subject.args(np.random.default_rng(seed), jnp.dtype(dtype), size)


def judge(mutant: Mutant, seed: int = 0) -> dict[str, Any]:
    """What the checker says of a mutant, and whether that is so."""
    begin = time.perf_counter()
    report = report_on(mutant.subject, make(mutant), drawn(mutant.subject, seed))
    wrong = [leaf for leaf in report.wrong if leaf.follows_from is None]
    named = [[c.kind for c in leaf.causes[:3]] for leaf in wrong]
    return {
        "mutant": mutant.name,
        "expected": sorted(mutant.kinds),
        "detected": bool(report.wrong),
        "caused": any(mutant.kinds & set(kinds) for kinds in named),
        "causes": named[0] if named else [],
        "first": report.first,
        "located": None if mutant.first is None else report.first == mutant.first,
        "expected_first": mutant.first,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def alarms(seeds: int, only: str = "") -> Iterator[dict[str, Any]]:
    """Every right function that is not called right, over dtypes, sizes and seeds."""
    for subject in [*SUBJECTS, *DERIVATIONS]:
        if only not in subject.name:
            continue
        for dtype in DTYPES:
            for seed in range(seeds):
                size = "small" if seed % 4 else "large"
                begin = time.perf_counter()
                report = report_on(subject, subject.backward, drawn(subject, seed, dtype, size))
                row = {"subject": subject.name, "dtype": dtype, "seed": seed, "size": size, "ok": report.ok}
                yield row | {"seconds": time.perf_counter() - begin, "report": "" if report.ok else str(report)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation score and false alarms of jaxnets.check.")
    parser.add_argument("--only", default="", help="subjects whose name holds this text")
    parser.add_argument("--seeds", type=int, default=20, help="seeds for the false alarms (0: leave them out)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for mutant in MUTANTS:
        if options.only not in mutant.name:
            continue
        row = judge(mutant)
        rows.append(row)
        if options.json:
            print(json.dumps(row), flush=True)
        elif not (row["detected"] and row["caused"] and row["located"] in (None, True)):
            said = f"causes {row['causes']}, first {row['first']}"
            print(f"{row['mutant']}\n    expected {row['expected']} {row['expected_first'] or ''}; {said}", flush=True)
    lines = [row for row in rows if row["located"] is not None]
    wrong = runs = 0
    for row in alarms(options.seeds, options.only):
        runs += 1
        wrong += not row["ok"]
        if options.json:
            print(json.dumps(row), flush=True)
        elif not row["ok"]:
            print(f"false alarm: {row['subject']}, {row['dtype']}, seed {row['seed']}, {row['size']}\n{row['report']}")
    if not options.json:
        print(f"detected {sum(r['detected'] for r in rows)} of {len(rows)} mutants")
        print(f"cause among the first three: {sum(r['caused'] for r in rows)} of {len(rows)}")
        print(f"first wrong line found: {sum(r['located'] for r in lines)} of {len(lines)}")
        print(f"false alarms: {wrong} of {runs} right functions")
        print(f"seconds a mutant: {np.median([r['seconds'] for r in rows] or [0]):.1f}")
    return 1 if wrong or not all(r["detected"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
