"""The mutation score of `jaxnets.check`: how many mistakes it sees, locates and explains, and its false alarms.

    python -m benchmarks.mutants [--only TEXT] [--seeds N] [--json]

Every mutant is checked once; every right function in each dtype, at both sizes, over `--seeds` seeds.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mutants import DERIVATIONS, MUTANTS, SUBJECTS, Derivation, Mutant, Subject, make
from jaxnets import check
from jaxnets.check._progress import progress

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


def summary(rows: list[dict[str, Any]], right: list[dict[str, Any]]) -> dict[str, Any]:
    """The score, and everything that was not as it should be."""
    lines = [row for row in rows if row["located"] is not None]
    return {
        "date": datetime.date.today().isoformat(),
        "versions": f"JAX {jax.__version__}, Python {platform.python_version()}, {jax.devices()[0].device_kind}",
        "mutants": len(rows),
        "functions": len({row["mutant"].split(":")[0] for row in rows}),
        "detected": sum(row["detected"] for row in rows),
        "cause among the first three": sum(row["caused"] for row in rows),
        "derivations": len(lines),
        "first wrong line": sum(row["located"] for row in lines),
        "seconds a mutant": float(np.median([row["seconds"] for row in rows] or [0])),
        "right functions": len(right),
        "seeds": len({row["seed"] for row in right}),
        "false alarms": sum(not row["ok"] for row in right),
        "no cause named": [row["mutant"] for row in rows if not row["caused"]],
        "not located": [row["mutant"] for row in lines if not row["located"]],
        "alarms": [{k: row[k] for k in ("subject", "dtype", "seed", "size")} for row in right if not row["ok"]],
    }


def table(found: dict[str, Any]) -> str:
    of = found["mutants"]
    return "\n".join(
        [
            f"{of} mutants of {found['functions']} functions ({found['versions']})",
            f"detected                     {found['detected']:4} of {of}",
            f"cause among the first three  {found['cause among the first three']:4} of {of}",
            f"first wrong line             {found['first wrong line']:4} of {found['derivations']}",
            f"false alarms                 {found['false alarms']:4} of {found['right functions']} right functions",
            f"seconds a mutant (median)    {found['seconds a mutant']:4.1f}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation score and false alarms of jaxnets.check.")
    parser.add_argument("--only", default="", help="subjects whose name holds this text")
    parser.add_argument("--seeds", type=int, default=20, help="seeds for the false alarms (0: leave them out)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, the summary last")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows, right = [], []
    for row in progress([m for m in MUTANTS if options.only in m.name], "mutants"):
        rows.append(row := judge(row))
        if options.json:
            print(json.dumps(row), flush=True)
        elif not (row["detected"] and row["caused"] and row["located"] in (None, True)):
            said = f"causes {row['causes']}, first {row['first']}"
            print(f"{row['mutant']}\n    expected {row['expected']} {row['expected_first'] or ''}; {said}", flush=True)
    for row in progress(alarms(options.seeds, options.only), "right functions"):
        right.append(row)
        if len(right) % 200 == 0:  # tens of thousands of programs are more than a process may map
            jax.clear_caches()
        if options.json:
            print(json.dumps(row), flush=True)
        elif not row["ok"]:
            print(f"false alarm: {row['subject']}, {row['dtype']}, seed {row['seed']}, {row['size']}\n{row['report']}")
    found = summary(rows, right)
    print(json.dumps(found) if options.json else table(found))
    return 1 if found["false alarms"] or found["detected"] < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
