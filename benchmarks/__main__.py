"""A step of every net, ours against autodiff and against other libraries: time, memory, compiling.

    python -m benchmarks [NET …] [--quick] [--alone] [--only TEXT] [--json] [--out FOLDER] [--show FILE]

Each work alone and inside `lax.scan`, as in a training loop; contestants take turns in one process. Products are those
of full float32 in every library, also where a device's habit is to round them coarser. `--out` keeps the
rows as `speed-DEVICE.json` and draws `speed-DEVICE.png`; after an interruption, the same command goes on with what is
missing.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from benchmarks import dense, gated, picture, resident, rnn, textconv
from benchmarks.timing import OURS, Work, best, gemm_rate, measured
from jaxnets._arrays import on_cpu
from jaxnets.check._progress import progress

NETS = {"rnn": rnn, "textconv": textconv, "gated": gated, "dense": dense}
COLUMNS = ("jax.grad", "remat", "flax", "equinox", "torch", "memory", "of remat", "of torch", "compile")
HEAD = f"{'net':<9}{'size':<20}{'what':<16}{'':<5}{'ours ms':>9}{'of floor':>9}{'rounds':>7}" + "".join(
    f"{name:>9}" for name in COLUMNS
)


def works(nets: list[str], quick: bool, alone: bool, only: str) -> Iterator[Work]:
    for net in nets:
        for work in NETS[net].works(quick):
            for each in (work,) if alone else (work, work._replace(in_loop=True)):
                if only in each.title:
                    yield each


def told(row: dict[str, Any]) -> str:
    """A row for the terminal: the others' times and memory over ours."""
    mine, plain = best(row, OURS), best(row, "jax")
    assert mine is not None
    assert plain is not None
    ratios = [best(row, framework) for framework in ("jax", "checkpoint", "flax", "equinox", "torch")]
    columns = [f"{c['ratio']:.2f}" if c else "–" for c in ratios]
    for framework in ("jax", "checkpoint", "torch"):
        bytes_ = [c["bytes"] for c in row["contestants"] if c["framework"] == framework and c["bytes"]]
        columns.append(f"{min(bytes_) / mine['bytes']:.1f}" if bytes_ else "–")
    columns.append(f"{mine['compile_s'] / plain['compile_s']:.2f}" if mine["compile_s"] else "–")
    floor = row["operations"] / row["machine"]["gemm_gflops"] / 1e6
    where = "scan" if row["in_loop"] else ""
    return (
        f"{row['net']:<9}{row['size']:<20}{row['what']:<16}{where:<5}{mine['median_ms']:>9.2f}"
        f"{mine['median_ms'] / floor:>9.1f}{row['rounds']:>7}" + "".join(f"{column:>9}" for column in columns)
    )


def machine(rate: float) -> dict[str, Any]:
    names = ("jax", "jaxlib", "flax", "equinox", "torch", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "torch_threads": _torch_threads(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "versions": versions,
        "gemm_gflops": rate / 1e9,
    }


def _torch_threads() -> int | None:
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    return torch.get_num_threads()


def _same(row: dict[str, Any], work: Work, about: dict[str, Any], quick: bool) -> bool:
    """Has this been measured, on this device, in these versions, as thoroughly?"""
    key = (row["net"], row["size"], row["what"], row["in_loop"], row["quick"])
    there = row["machine"]
    same_machine = there["device"] == about["device"] and there["versions"] == about["versions"]
    return same_machine and key == (work.net, work.size, work.what, work.in_loop, quick)


def title(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    return (
        f"{about['device']}, {about['cores']} cores, products up to {about['gemm_gflops']:.0f} GFLOP/s; {versions}\n"
        f"time, memory and compiling of others over ours: more than 1 is for us\n{HEAD}"
    )


def show(file: Path) -> int:
    rows = json.loads(file.read_text())
    print(title(rows[0]["machine"]))
    for row in rows:
        print(told(row))
    picture.draw(rows, file.with_suffix(".png"))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"which of {', '.join(NETS)} (all if none is named)")
    parser.add_argument("--quick", action="store_true", help="a few small sizes, in about two minutes")
    parser.add_argument("--alone", action="store_true", help="leave out the loops")
    parser.add_argument("--only", default="", metavar="TEXT", help="works whose line has this text in it")
    parser.add_argument("--json", action="store_true", help="one JSON row a line in place of the table")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the results, and draw them")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print results that were kept, and measure nothing")
    options = parser.parse_args()
    if options.show:
        return show(options.show)
    if unknown := [net for net in options.nets if net not in NETS]:
        parser.error(f"no net {unknown[0]!r}; there are {', '.join(NETS)}")
    if not on_cpu():
        jax.config.update("jax_default_matmul_precision", "highest")
    least, seconds = (7, 0.0) if options.quick else (7, 2.0 if on_cpu() else 0.5)
    about = machine(gemm_rate())
    file = options.out and options.out / f"speed-{about['device'].lower().replace(' ', '-')}.json"
    rows = json.loads(file.read_text()) if file and file.exists() else []
    if not options.json:
        print(title(about))
    for work in progress(
        list(works(options.nets or list(NETS), options.quick, options.alone, options.only)), "benchmarks"
    ):
        if any(_same(row, work, about, options.quick) for row in rows):
            continue
        row = measured(work, least, seconds) | {"quick": options.quick, "machine": about}
        for contestant in row["contestants"] if not options.quick else ():
            if contestant["framework"] == "torch":
                contestant["bytes"] = resident.of_torch(work)
        rows.append(row)
        sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
        print(json.dumps(row) if options.json else told(row), flush=True)
        if file:
            options.out.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(rows, indent=1) + "\n")
            part.replace(file)
    if file:
        picture.draw(rows, file.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
