"""Temporaries of a step of the recurrent net against the length of its sequences, by the compiler's count.

    python -m benchmarks.memory [--json] [--out FOLDER]

Nothing is run: a step at a million steps is compiled as fast as one at a hundred. `--out` keeps `memory.json` and draws
`memory.png`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.rnn import CLASSES, by_stretches, plain
from jaxnets import rnn
from jaxnets.check._progress import progress

LENGTHS = (100, 1000, 10_000, 100_000, 1_000_000)
B, D, H = 4, 1, 32
LOSSES = {
    "ours": rnn.loss,
    "ours, one state in √(T/3)": lambda p, x, y: rnn.loss(p, x, y, save=round((x.shape[1] / 3) ** 0.5)),
    "jax.checkpoint of √T steps": by_stretches,
    "jax.checkpoint of the step": partial(plain, hoisted=False, remat=True),
    "jax.grad": partial(plain, hoisted=False),
}
COLOURS = ("#222222", "#c44e52", "#69a86f", "#9a78b0", "#4878a8")


def rows(lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, Any]]:
    """Bytes of temporaries, by length and by who computes the gradient."""
    found = []
    for T, every in progress([(T, every) for every in (False, True) for T in lengths], "memory"):
        params = rnn.init(jax.random.key(0), D, H, CLASSES)
        x = jax.ShapeDtypeStruct((B, T, D), jnp.float32)
        y = jax.ShapeDtypeStruct((B, T) if every else (B,), jnp.int32)
        bytes_ = {}
        for name, loss in LOSSES.items():
            memory: Any = jax.jit(jax.grad(loss)).lower(params, x, y).compile().memory_analysis()
            bytes_[name] = memory.temp_size_in_bytes
        found.append({"steps": T, "what": "every step" if every else "last step", "bytes": bytes_})
    return found


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A panel a loss, a line each; and what a line of slope one half would be."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axes, what in zip(panels, ("last step", "every step"), strict=True):
        of_panel = [row for row in found if row["what"] == what]
        T = [row["steps"] for row in of_panel]
        for name, colour in zip(LOSSES, COLOURS, strict=True):
            axes.plot(T, [row["bytes"][name] / 1e6 for row in of_panel], "o-", color=colour, label=name, markersize=4)
        axes.plot(T, [0.3 * (t / T[0]) ** 0.5 for t in T], ":", color="grey", label="grows like √T")
        axes.set(xscale="log", yscale="log", xlabel="steps T", title=f"scored: {what}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("temporaries, MB")
    panels[0].legend(fontsize=8)
    figure.suptitle(f"a gradient of the recurrent net: {B} sequences, {H} units, float32", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="a line of JSON for each length")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the figures, and draw them")
    options = parser.parse_args()
    found = rows()
    sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
    if options.json:
        print("\n".join(map(json.dumps, found)))
    else:
        print(f"{'MB':<12}{'steps':>9}" + "".join(f"{name:>29}" for name in LOSSES))
        for row in found:
            print(f"{row['what']:<12}{row['steps']:>9}" + "".join(f"{row['bytes'][n] / 1e6:>29.1f}" for n in LOSSES))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "rows": found}
        (options.out / "memory.json").write_text(json.dumps(about, indent=1) + "\n")
        draw(found, options.out / "memory.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
