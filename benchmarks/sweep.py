"""Random sizes of every net: a step by hand against the fastest plain form that autodiff differentiates.

    python -m benchmarks.sweep [NET …] [--sizes N] [--seed N] [--saves] [--out FILE]

Sizes are drawn evenly in their logarithm, alone or in a loop, as far as a step is a second's work and some hundred MB.
What comes out slower than 0.95 is measured twice again, and its median counts. `--saves` sets other ways to keep the
recurrent net's states beside its own choice. `--out` keeps each row as it is measured; the same command goes on with
what is missing.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import dense, gated, rnn, textconv
from benchmarks.__main__ import machine
from benchmarks.timing import OURS, Work, best, gemm_rate, measured
from jaxnets import rnn as net_rnn
from jaxnets._chunks import near_divisor
from jaxnets.check._progress import progress

SLOW = 0.95
OPERATIONS, STATES = 5e9, 3e8  # of a step at most; bytes

Draw = Callable[[float, float], int]


def _rnn(draw: Draw, yes: Callable[[], bool]) -> tuple[Work, float]:
    T, B, D, H = draw(4, 2048), draw(1, 256), draw(1, 256), draw(8, 768)
    return rnn.at(T, B, D, H, yes()), 4.0 * T * B * H


def _textconv(draw: Draw, yes: Callable[[], bool]) -> tuple[Work, float]:
    B, T, S, F = draw(4, 128), draw(8, 512), draw(16, 512), draw(8, 256)
    size = 4.0 * B * T * F
    if yes():
        return textconv.of_tokens(B, T, S, (3, 4, 5), F, draw(100, 20_000)), 3 * size
    return textconv.at(B, T, S, draw(1, 8), F, yes()), size


def _gated(draw: Draw, yes: Callable[[], bool]) -> tuple[Work, float]:
    B, c, a, b = draw(16, 16384), draw(16, 1024), draw(8, 512), draw(8, 512)
    return gated.at(B, c, a, b), 8.0 * B * c


def _dense(draw: Draw, yes: Callable[[], bool]) -> tuple[Work, float]:
    B, sizes = draw(8, 2048), tuple(draw(10, 1024) for _ in range(draw(2, 5)))
    return dense.at(B, sizes), 4.0 * B * sum(sizes)


NETS = {"rnn": _rnn, "textconv": _textconv, "gated": _gated, "dense": _dense}


def drawn(net: str, number: int, seed: int) -> Work:
    """The size of that number."""
    rng = np.random.default_rng([seed, number, *net.encode()])

    def draw(least: float, most: float) -> int:
        return round(np.exp(rng.uniform(np.log(least), np.log(most))))

    while True:
        work, states = NETS[net](draw, lambda: bool(rng.random() < 0.5))
        if work.operations <= OPERATIONS and states <= STATES:
            return work._replace(in_loop=bool(rng.random() < 0.5))


def only_plain(work: Work, saves: bool) -> Work:
    """Without other libraries, and with other ways to save if asked for."""
    losses = {who: loss for who, loss in work.losses.items() if who[1] in (OURS, "jax")}
    if work.in_loop:  # XLA convolves in a loop on one core
        losses = {who: loss for who, loss in losses.items() if who[0] not in {*textconv.SLOW_IN_A_LOOP, "lax.conv"}}
    if saves and work.net == "rnn":
        T = work.data[0].shape[1]
        lengths = {near_divisor(T, n) for n in (max(round((T / 3) ** 0.5), 1), 64) if n < T}
        ways: list[str | int] = ["all", *sorted(lengths)]
        losses |= {(f"save={way}", "other"): partial(net_rnn.loss, save=way) for way in ways}
    return work._replace(losses=losses, others=dict)


def of_one(net: str, number: int, seed: int, saves: bool) -> dict[str, Any]:
    work, tries = only_plain(drawn(net, number, seed), saves), []
    while not tries or (len(tries) < 3 and min(map(ratio, tries)) < SLOW):
        tries.append(measured(work, 5, 0.3))
    return sorted(tries, key=ratio)[len(tries) // 2] | {"number": number, "measured": len(tries)}


def ratio(row: dict[str, Any], *frameworks: str) -> float:
    """The time of the fastest of the others over ours."""
    other = best(row, *(frameworks or ("jax",)))
    return np.inf if other is None else other["ratio"]


def compiling(row: dict[str, Any]) -> float:
    """How long ours compiles, over the quickest of the others."""
    of_others = [c["compile_s"] for c in row["contestants"] if c["framework"] == "jax"]
    return row["contestants"][0]["compile_s"] / min(of_others)


def told(row: dict[str, Any]) -> str:
    where = " in a loop" if row["in_loop"] else ""
    mine = row["contestants"][0]["median_ms"]
    others = " ".join(f"{c['name']}: {c['ratio']:.2f}" for c in row["contestants"][1:])
    return f"{row['net']} {row['size']} {row['what']}{where}: {mine:.2f} ms; others over that: {others}"


def summary(net: str, rows: list[dict[str, Any]]) -> str:
    ratios = np.array([ratio(row) for row in rows])
    slow = [row for row in rows if ratio(row) < SLOW]
    text = (
        f"{net:<9}{len(rows):>4} sizes: autodiff's best takes {np.median(ratios):.2f} of our time (median), "
        f"{ratios.min():.2f} at the least; {len(slow)} below {SLOW}; "
        f"compiling takes {np.median([compiling(row) for row in rows]):.2f} of autodiff's (median)"
    )
    others = np.array([ratio(row, "other") for row in rows])
    if np.isfinite(others).any():
        text += f"\n{'':<9}other ways to save: {others.min():.2f} at the least, {sum(others < SLOW)} below {SLOW}"
    return "\n".join([text, *(f"    {told(row)}" for row in sorted(slow, key=ratio))])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"which of {', '.join(NETS)} (all if none is named)")
    parser.add_argument("--sizes", type=int, default=200, help="how many of each net (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saves", action="store_true", help="other ways to keep the recurrent net's states, too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the rows, one JSON a line, and go on from them")
    options = parser.parse_args()
    if unknown := [net for net in options.nets if net not in NETS]:
        parser.error(f"no net {unknown[0]!r}; there are {', '.join(NETS)}")
    about = machine(gemm_rate())
    lines = options.out.read_text().splitlines() if options.out and options.out.exists() else []
    kept = [json.loads(line) for line in lines]
    print(f"{about['device']}, {about['cores']} cores, JAX {jax.__version__}, seed {options.seed}", flush=True)
    slow = 0
    for net in options.nets or NETS:
        there = {
            row["number"]: row
            for row in kept
            if (row["net"], row["seed"], row["saves"]) == (net, options.seed, options.saves)
            and row["machine"]["versions"] == about["versions"]
        }
        for number in progress(range(options.sizes), net):
            if number not in there:
                row = of_one(net, number, options.seed, options.saves)
                there[number] = row | {"seed": options.seed, "saves": options.saves, "machine": about}
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(there[number]) + "\n")
        rows = [there[number] for number in range(options.sizes)]
        slow += sum(ratio(row) < SLOW for row in rows)
        print(summary(net, rows), flush=True)
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
