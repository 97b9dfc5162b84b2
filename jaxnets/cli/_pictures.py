"""Pictures of a run: how it learned, and what it takes for what."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.check._picture import empty_figure
from jaxnets.train._checkpoint import write_whole

TRAINING, VALIDATION, QUIET = "#4477aa", "#cc5544", "#777777"
MOST = 30  # classes of which a table can be drawn
COUNTED = 12  # classes whose counts can be read


def curve(path: Path, history: list[dict[str, float]], best: int, title: str) -> None:
    """Loss and, where it is known, accuracy by epoch."""
    scores = [s for s in ("loss", "accuracy") if f"validation_{s}" in history[0]]
    figure = empty_figure(4.6 * len(scores), 3.6)
    epochs = [entry["epoch"] for entry in history]
    for panel, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        for part, colour in (("training", TRAINING), ("validation", VALIDATION)):
            values = [entry[f"{part}_{score}"] for entry in history]
            marker = "o" if len(epochs) < 15 else None
            panel.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=part)
        value = history[best - 1][f"validation_{score}"]
        panel.plot(best, value, "o", color=VALIDATION, markersize=8, markerfacecolor="white", markeredgewidth=1.8)
        at_end = best > 0.6 * len(epochs)
        panel.annotate(
            f"kept: {value:.3g}" if score == "loss" else f"kept: {value:.1%}",
            *((best, value), (-10 if at_end else 10, 14 if score == "loss" else -20)),
            textcoords="offset points",
            ha="right" if at_end else "left",
            color=VALIDATION,
            fontsize=9,
        )
        panel.set_xlabel("epoch", color=QUIET)
        panel.set_title(score, loc="left", fontsize=11)
        panel.xaxis.get_major_locator().set_params(integer=True)
        _clean(panel)
        if score == "loss":
            panel.set_ylim(bottom=0)
            panel.legend(frameon=False, fontsize=9, loc="upper right")
        else:
            panel.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}" if y * 100 % 1 < 1e-6 else f"{y:.1%}")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    _save(figure, path)


def confusion(path: Path, table: np.ndarray, classes: tuple[str, ...], title: str) -> None:
    """Rows are what it is, columns what it was taken for; colours are shares of a row."""
    n = len(classes)
    side = min(max(0.5 * n, 2.6), 7.0)
    figure = empty_figure(side + 2.2, side + 1.4)
    panel = figure.subplots()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    map_ = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if n <= COUNTED:
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#224466"
                panel.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=9)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    turned = 45 if max(map(len, names)) > 3 else 0
    panel.set_xticks(range(n), names, rotation=turned, ha="right" if turned else "center", parse_math=False)
    panel.set_yticks(range(n), names, parse_math=False)
    panel.set_xlabel("taken for", color=QUIET)
    panel.set_ylabel("is", color=QUIET)
    panel.tick_params(length=0, labelsize=9)
    for spine in panel.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(map_, ax=panel, shrink=0.8, format=lambda y, _: f"{y:.0%}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=QUIET, labelcolor=QUIET)
    right = np.trace(table) / max(table.sum(), 1)
    figure.suptitle(
        f"{title}\n{np.trace(table)} of {table.sum()} right ({right:.1%})",
        x=0.02,
        ha="left",
        fontsize=10,
        parse_math=False,
    )
    _save(figure, path)


def _clean(panel: Any) -> None:
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#bbbbbb")
    panel.tick_params(color="#bbbbbb", labelcolor="#555555", labelsize=8)
    panel.grid(axis="y", color="#eeeeee")
    panel.set_axisbelow(True)


def _save(figure: Any, path: Path) -> None:
    import warnings

    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may hold letters that the font has not
        figure.savefig(content, dpi=130, format="png")
    write_whole(path, content.getvalue())
