"""How long a training step takes on N devices: a model, fitted on what is measured here, carried on paper to 1,024.

    python -m benchmarks.scaling [--json] [--out FOLDER] [--show FILE]

    t(N) = launch + example · (⌊B/N⌋ + B mod N) + 2 log₂ N · message + 2 (N − 1)/N · bytes · byte

A device is a core here. `launch` and `example` are of a process that has one core to itself, from steps of several
batch sizes B; `message` and `byte` from sums of vectors of several lengths over two devices of a process, and over
two processes by the loopback address. The model is then held against steps on two devices, which it was not fitted on.
`--out` keeps `scaling.json` and draws `scaling.png`; `--show` prints what was kept.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.devices import steps
from benchmarks.rnn import CLASSES
from benchmarks.timing import OURS, interleaved
from jaxnets.check._progress import progress

WORKS = {"28,28,128": (28, 28, 128), "784,1,128": (784, 1, 128), "256,128,256": (256, 128, 256)}  # T, D, H
BATCHES = (8, 16, 32, 64, 128)
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)  # numbers of float32 that are summed
NETWORK = (50e-6, 0.8e-9)  # seconds a message, seconds a byte: 10 Gbit/s Ethernet, on paper
COUNTS = (1, 2, 4, 8, 16, 64, 256, 1024)
WEAK, STRONG = 32, 1024  # examples a device; examples of all devices together


def predicted(fit: dict[str, float], between: Sequence[float], bytes_: int, batch: int, devices: int) -> float:
    """The formula above, in seconds."""
    message, byte = between
    alone = fit["launch"] + fit["example"] * (batch // devices + batch % devices)
    return alone + 2 * math.log2(devices) * message + 2 * (devices - 1) / devices * bytes_ * byte


def fitted(of: Sequence[float], took: Any) -> tuple[float, float]:
    """`took ≈ a + b of`, no number negative, errors in proportion to the time."""
    x, seconds = np.array(of, float), np.array(took, float)
    a, b = np.linalg.lstsq(np.stack([1 / seconds, x / seconds], 1), np.ones(len(x)))[0]
    if a < 0:
        a, b = 0.0, float(np.mean(seconds / x))
    if b < 0:
        a, b = float(np.mean(seconds)), 0.0
    return float(a), float(b)


def of_steps(mesh: jax.sharding.Mesh) -> dict[str, dict[int, float]]:
    """Seconds of a step of ours on all devices of a mesh, by work and batch."""
    found = {}
    for name, (T, D, H) in progress(list(WORKS.items()), "scaling"):
        runs = [steps(T, B, D, H, mesh)[OURS, mesh.size] for B in BATCHES]
        found[name] = dict(zip(BATCHES, np.median(interleaved(runs, 7, 4.0), 0).tolist(), strict=True))
    return found


def of_a_core() -> dict[str, dict[int, float]]:
    """The same on one device, all threads of its process on one core."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--core", str(min(os.sched_getaffinity(0)))]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    return {name: {int(B): seconds for B, seconds in row.items()} for name, row in told.items()}


def _on_a_core(core: int) -> int:
    os.sched_setaffinity(0, {core})  # before JAX starts its threads
    jax.config.update("jax_num_cpu_devices", 1)
    print(json.dumps(of_steps(jax.sharding.Mesh(np.array(jax.devices()), ("batch",)))), flush=True)
    return 0


def of_sums(mesh: jax.sharding.Mesh, lengths: Sequence[int]) -> dict[str, Any]:
    """What one sum over the devices of a mesh takes, by length: a loop of them in one program."""
    rounds, contestants = 50, []
    for length in lengths:
        a = jax.make_array_from_callback(
            (mesh.size, length),
            jax.sharding.NamedSharding(mesh, jax.P("batch")),
            lambda place, n=length: np.ones((1, n), np.float32),
        )

        def summed(a: Any) -> Any:
            def again(_: Any, a: Any) -> Any:
                return jax.lax.psum(a, "batch") / mesh.size

            return jax.lax.fori_loop(0, rounds, again, a)

        run = jax.jit(
            jax.shard_map(summed, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P("batch"), check_vma=False)
        )
        contestants.append(lambda run=run, a=a: jax.block_until_ready(run(a)))
    for run in contestants:
        run()
    if mesh.is_multi_process:  # which take as many turns
        times = np.median(interleaved(contestants, 7, 0.0), 0) / rounds
    else:
        times = np.median(interleaved(contestants, 7, 2.0), 0) / rounds
    a, b = fitted([4 * length for length in lengths], times)
    return {"message": a / 2, "byte": b, "seconds": dict(zip(lengths, times.tolist(), strict=True))}


def of_processes() -> dict[str, Any]:
    """Sums over two processes on this machine, by the loopback address."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{trial.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.scaling", "--between", address, *map(str, LENGTHS), "--process"]
    with (
        subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen([*command, "1"], stdout=subprocess.DEVNULL) as other,
    ):
        told, _ = first.communicate(timeout=300)
        if first.returncode or other.wait(timeout=60):
            raise RuntimeError("the two processes that sum have failed; what they said stands above")
    return json.loads(told.splitlines()[-1])


def _between(address: str, lengths: Sequence[int], process: int) -> int:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(address, 2, process)
    found = of_sums(jax.sharding.Mesh(np.array(jax.devices()), ("batch",)), lengths)
    jax.distributed.shutdown()
    if process == 0:
        print(json.dumps(found), flush=True)
    return 0


def measure() -> dict[str, Any]:
    """All that the model needs, of two devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    one, two = of_a_core(), of_steps(mesh)
    rows = {}
    for name, (_, D, H) in WORKS.items():
        launch, example = fitted(list(one[name]), list(one[name].values()))
        bytes_ = 4 * (D * H + H * H + H + H * CLASSES + CLASSES)
        rows[name] = {"launch": launch, "example": example, "bytes": bytes_, "one": one[name], "two": two[name]}
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
    return about | {"works": rows, "in one process": of_sums(mesh, LENGTHS), "two processes": of_processes()}


def told(found: dict[str, Any]) -> str:
    """What was measured, what the model makes of it, and where that leads."""
    lines = [f"JAX {found['jax']}, {found['cores']} cores, {found['device']}"]
    for where in ("in one process", "two processes"):
        sums = found[where]
        by_length = ", ".join(f"{1e6 * s:.0f} µs of {4 * int(n) / 1e3:.0f} kB" for n, s in sums["seconds"].items())
        lines.append(
            f"a sum over two devices, {where}: message {1e6 * sums['message']:.0f} µs, "
            f"{1e9 * sums['byte']:.2f} ms a MB ({by_length})"
        )
    lines.append(
        f"\n{'T,D,H':<14}{'launch ms':>10}{'example ms':>11}  batch: step on one and two devices, of the model's"
    )
    for name, row in found["works"].items():
        between = found["in one process"]["message"], found["in one process"]["byte"]
        of_batch = []
        for B in row["one"]:
            model = [predicted(row, between, row["bytes"], int(B), n) for n in (1, 2)]
            of_batch.append(f"{B}: {row['one'][B] / model[0]:.2f} {row['two'][B] / model[1]:.2f}")
        lines.append(f"{name:<14}{1e3 * row['launch']:>10.2f}{1e3 * row['example']:>11.4f}  {', '.join(of_batch)}")
    lines.append(f"\non paper, over {8e-9 / NETWORK[1]:.0f} Gbit/s with {1e6 * NETWORK[0]:.0f} µs a message: speed-up")
    lines.append(f"{'':<36}" + "".join(f"{n:>7}" for n in COUNTS))
    for name, row in found["works"].items():
        for what, weak in ((f"{WEAK} examples a device", True), (f"{STRONG} examples in all", False)):
            lines.append(f"{name:<14}{what:<22}" + "".join(f"{gain(row, n, weak):>7.1f}" for n in COUNTS))
    return "\n".join(lines)


def gain(row: dict[str, Any], devices: int, weak: bool) -> float:
    """Examples a second on so many devices over those on one, on paper."""
    batch = WEAK * devices if weak else STRONG
    one = predicted(row, NETWORK, row["bytes"], WEAK if weak else STRONG, 1)
    return (devices if weak else 1) * one / predicted(row, NETWORK, row["bytes"], batch, devices)


def draw(found: dict[str, Any], path: Path) -> None:
    """Speed-up against devices, a line a work; on the left the batch grows with them, on the right it stays."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    titles = (f"{WEAK} examples a device", f"{STRONG} examples in all")
    for axes, title, weak in zip(panels, titles, (True, False), strict=True):
        for name, row in found["works"].items():
            axes.plot(COUNTS, [gain(row, n, weak) for n in COUNTS], "o-", label=f"T,D,H = {name}", markersize=4)
        axes.plot(COUNTS, COUNTS, ":", color="grey", label="as many times as devices")
        axes.set(xscale="log", yscale="log", xlabel="devices, a process each", title=title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("examples a second, over one device")
    panels[0].legend(fontsize=8)
    figure.suptitle("a step of the recurrent net on paper: compute as measured, network as assumed", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="what was measured, as JSON")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep what was measured, and draw the model")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print what was kept, and measure nothing")
    parser.add_argument("--between", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.between:
        return _between(options.between[0], [int(n) for n in options.between[1:]], options.process)
    if options.core is not None:
        return _on_a_core(options.core)
    jax.config.update("jax_num_cpu_devices", 2)
    found = json.loads(options.show.read_text() if options.show else json.dumps(measure()))
    sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
    print(json.dumps(found) if options.json else told(found))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, options.out / "scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
