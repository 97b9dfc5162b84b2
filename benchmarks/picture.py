"""The ratios as a picture: how many times longer the others take than we do."""

from pathlib import Path
from typing import Any

from benchmarks.timing import best

COLOURS = {"jax": "#4878a8", "torch": "#d98032", "flax": "#69a86f", "equinox": "#9a78b0"}
NAMES = {"jax": "best jax.grad", "torch": "PyTorch", "flax": "Flax", "equinox": "Equinox"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A line a work, a mark a rival, time on a logarithmic axis; left of 1 the rival is faster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.24 * len(rows)), layout="constrained")
    for line, row in enumerate(rows):
        for framework, colour in COLOURS.items():
            if found := best(row, framework):
                axes.plot(found["ratio"], line, "o", color=colour, markersize=7 if framework == "jax" else 5)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50) if axes.get_xlim()[0] <= t <= 2 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    titles = [f"{r['net']} {r['size']} {r['what']}" + (" (scan)" if r["in_loop"] else "") for r in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time of a step over ours: right of 1 ours is faster")
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS[f], label=NAMES[f]) for f in COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    about = rows[0]["machine"]
    axes.set_title(f"{about['device']}, {about['cores']} cores, JAX {about['versions']['jax']}", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
