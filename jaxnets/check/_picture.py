"""Heat maps of where the error sits: one for each leaf of a report, all on one colour scale."""

import math
import os
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.check._report import KINK, RIGHT, UNDECIDABLE, WRONG

if TYPE_CHECKING:
    from jaxnets.check._report import Leaf, Report

MOST = 12  # leaves drawn; wrong ones come first
PIXELS = 200  # of a map, along each axis
LOW, HIGH = 1e-16, 1.0  # ends of the colour scale: the same in every picture, so that pictures can be laid side by side
_ORDER = [WRONG, UNDECIDABLE, KINK, RIGHT]
_NOT_A_NUMBER = "#e000e0"


_ENDINGS = (".png", ".svg", ".pdf", ".jpg")


def save(report: "Report", path: str | Path) -> None:
    """Draw |hand-written − true| / scale of each leaf into a file; its ending says in which format."""
    can_be_drawn(path)
    figure = _figure(report)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may hold letters that the font has not
        figure.savefig(path, dpi=110)


def can_be_drawn(path: str | Path) -> None:
    """An error where no picture could be written to this path."""
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"picture: expected a file that ends with {', '.join(_ENDINGS)}; got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"picture: there is no folder {str(path.parent)!r}")


def empty_figure(width: float, height: float) -> Any:
    """A figure with a canvas of its own: whoever draws with pyplot beside us is left alone. What a notebook has set for
    windows (`MPLBACKEND`) need not be installed."""
    windows = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install 'jaxnets[cli]'") from error
    finally:
        if windows is not None:
            os.environ["MPLBACKEND"] = windows
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(report: "Report") -> Any:
    # Line order is kept within a verdict; roots come before what follows from them.
    ranked = sorted(report.leaves, key=lambda leaf: (_ORDER.index(leaf.verdict), leaf.follows_from is not None))
    leaves = ranked[:MOST]
    columns = min(3, max(1, len(leaves)))
    rows = max(1, math.ceil(len(leaves) / columns))
    figure = empty_figure(4.4 * max(columns, 2), 3.6 * rows + 0.8)
    from matplotlib.colors import LogNorm

    shown = "" if len(leaves) == len(ranked) else f" ({len(leaves)} of {len(ranked)} leaves)"
    figure.suptitle(f"{report.title}{shown}", parse_math=False)

    norm, map_ = LogNorm(LOW, HIGH), None
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(leaves) :]:
        panel.set_axis_off()
    for panel, leaf in zip(panels, leaves, strict=False):
        panel.set_title(_told(leaf), fontsize=9, loc="left", parse_math=False)
        error = errors_of(leaf)
        if error is None:
            _say(panel, leaf)
        else:
            map_ = _draw(panel, leaf, error, norm)
    if map_ is not None:
        label = "error relative to the leaf's scale; magenta: not a number"
        bar = figure.colorbar(map_, ax=list(panels), extend="both", shrink=0.9, label=label)
        bar.set_ticks([1e-16, 1e-12, 1e-8, 1e-4, 1.0])
    return figure


def errors_of(leaf: "Leaf") -> np.ndarray | None:
    """The relative error of each entry; None where what came back does not have the leaf's form."""
    if leaf.got is None or leaf.want is None or np.shape(leaf.got) != np.shape(leaf.want):
        return None
    got, want = np.asarray(leaf.got, np.float64), np.asarray(leaf.want, np.float64)
    with np.errstate(invalid="ignore"):
        off = np.abs(got - want)
    scale = leaf.scale or float(np.max(np.abs(want[np.isfinite(want)]), initial=0)) or 1.0
    return np.where(np.isfinite(off), off, np.nan) / scale


def folded(values: np.ndarray) -> np.ndarray:
    """As a matrix: a vector is one row, further axes are folded into the rows."""
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(1, -1)


def shrunk(matrix: np.ndarray, pixels: int = PIXELS) -> np.ndarray:
    """At most `pixels` along each axis; each holds the largest of its block, so that a single wrong entry shows."""
    for axis in (0, 1):
        block = math.ceil(matrix.shape[axis] / pixels)
        if block > 1:
            starts = np.arange(0, matrix.shape[axis], block)
            matrix = np.maximum.reduceat(matrix, starts, axis)  # not a number wins over any
    return matrix


def _draw(panel: Any, leaf: "Leaf", error: np.ndarray, norm: Any) -> Any:
    from matplotlib import colormaps

    matrix = folded(error)
    if not matrix.size:
        _say(panel, leaf, "it has no entries")
        return None
    rows, columns = matrix.shape
    colours = colormaps["viridis"].with_extremes(bad=_NOT_A_NUMBER, under="#101010", over="#ff3020")
    map_ = panel.imshow(
        np.maximum(shrunk(matrix), LOW / 10),  # a logarithm has no place for zero
        norm=norm,
        cmap=colours,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )
    panel.set_box_aspect(0.12 if rows == 1 else min(0.65, max(0.2, rows / columns)))
    panel.set_anchor("N")
    panel.locator_params(nbins=5, integer=True)
    if rows == 1:
        panel.set_yticks([])
    if columns == 1:
        panel.set_xticks([])
    at = "" if not leaf.worst else f" at {list(leaf.worst)}"
    if leaf.worst and leaf.verdict == WRONG and matrix.size > 400:  # a single entry is easily overlooked
        row, column = divmod(int(np.ravel_multi_index(leaf.worst, error.shape)), columns)
        panel.plot(column, row, "o", markersize=9, markerfacecolor="none", markeredgecolor="#ff3020")
    panel.set_xlabel(f"shape {np.shape(leaf.want)}; largest {leaf.error:.1e}{at}", fontsize=8)
    panel.tick_params(labelsize=7)
    return map_


def _say(panel: Any, leaf: "Leaf", text: str = "") -> None:
    """In place of a map, why there is none."""
    text = text or next((c.detail for c in leaf.causes), "") or next(iter(leaf.remarks), "nothing to draw")
    panel.set(xticks=[], yticks=[])
    panel.set_box_aspect(0.4)
    panel.set_anchor("N")
    panel.text(
        *(0.5, 0.5, textwrap.fill(text, 34)),
        ha="center",
        va="center",
        fontsize=9,
        color="#b00000",
        transform=panel.transAxes,
        parse_math=False,
    )


def _told(leaf: "Leaf") -> str:
    """Name, verdict, and the first thing to be said of it."""
    head = f"{leaf.name}: {leaf.verdict}"
    why = f"follows from {leaf.follows_from}" if leaf.follows_from else next((str(c) for c in leaf.causes), "")
    return "\n".join([head, *textwrap.wrap(why, 52, max_lines=3, placeholder=" …")])
