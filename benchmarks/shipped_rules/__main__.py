"""The rules that other libraries ship: every `custom_jvp` and `custom_vjp` that a call meets, judged one by one.

    python -m benchmarks.shipped_rules [--only TEXT] [--json]

These libraries are long in use, so a rule called wrong here is most likely a false alarm of the checker. Arguments are
drawn away from kinks. Rules that are meant to differ from the derivative are no part of the list; those that are known
to be wrong are, and must be found. Exit code 1 if any comes out otherwise.
"""

import argparse
import datetime
import importlib
import json
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.shipped_rules._entry import Entry, rules_in

ROOMS = ("_jax", "_nets", "_solvers", "_probability")
# As they are installed, where that is another name than the one that is printed.
VERSIONS = ("jax", "optax", "flax", "equinox", "lineax", "optimistix", "diffrax", "jaxopt", "matfree")
VERSIONS += ("numpyro", "distrax", "ott-jax", "e3nn-jax", "tfp-nightly")


def entries() -> list[tuple[int, Entry]]:
    """Each with its number, which is the seed of its arguments."""
    found = []
    for room in ROOMS:
        try:
            module = importlib.import_module(f"benchmarks.shipped_rules.{room}")
        except ModuleNotFoundError as error:
            sys.exit(f"benchmarks.shipped_rules: {error.name} is not installed: pip install 'jaxnets[rules]'")
        found += enumerate(module.ENTRIES)
    return found


def judge(number: int, entry: Entry) -> dict[str, Any]:
    """What is met, and what the checker says of it."""
    from jaxnets import check

    start, args = time.perf_counter(), entry.args(np.random.default_rng(number))
    row: dict[str, Any] = {"library": entry.library, "function": entry.name, "rules": rules_in(entry.f, args)}
    leaves, told = 0, ""
    try:
        report = check.rules(entry.f, args)
        leaves, told = len(report.leaves), str(report)
        found = "right" if report.ok else "wrong" if report.wrong else "undecidable" if leaves else "not compared"
    except Exception as error:  # one that cannot be checked must not hide the others
        found, told = "failed", f"{type(error).__name__}: {error}"
    found = found if row["rules"] else "no rule met"
    as_expected = found == ("right" if entry.right else "wrong")
    row |= {"verdict": found, "known to be right": entry.right, "as expected": as_expected, "gradients": leaves}
    seconds = round(time.perf_counter() - start, 1)
    return row | {"seconds": seconds, "report": "" if as_expected and entry.right else told}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many came out how."""
    those = [row for row in rows if row["known to be right"]]
    others = [row for row in rows if not row["known to be right"]]
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "functions": len(those),
        "libraries": len({row["library"] for row in those}),
        "gradients": sum(row["gradients"] for row in those),
        "verdicts": {v: sum(r["verdict"] == v for r in those) for v in sorted({r["verdict"] for r in those})},
        "known to be wrong": len(others),
        "of these found": sum(row["as expected"] for row in others),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge the custom derivative rules that other libraries ship.")
    parser.add_argument("--only", default="", help="libraries and functions whose name holds this text")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, and what the others did not say")
    options, rows = parser.parse_args(), []
    if not options.json:
        print(f"{'library':24}{'function':36}{'seconds':>8}  {'verdict':13}  rules met")
    for number, entry in entries():
        if options.only not in f"{entry.library} {entry.name}":
            continue
        rows.append(row := judge(number, entry))
        if not options.json:
            met = ", ".join(dict.fromkeys(rule.partition(" ")[0] for rule in row["rules"]))
            start = f"{row['library']:24}{row['function']:36}{row['seconds']:8.1f}  {row['verdict']:13}"
            print(f"{start}  {met}", flush=True)
            if not row["as expected"]:
                print(row["report"], flush=True)
    found = summary(rows)
    if options.json:
        print(json.dumps({**found, "rows": rows}, indent=1))
    else:
        print(
            f"{found['functions']} functions of {found['libraries']} libraries, {found['gradients']} gradients: ",
            end="",
        )
        print(", ".join(f"{n} {verdict}" for verdict, n in found["verdicts"].items()))
        print(f"{found['of these found']} of {found['known to be wrong']} that are known to be wrong are found")
    return int(not all(row["as expected"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
