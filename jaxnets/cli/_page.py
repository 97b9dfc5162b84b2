"""The page of the demo: tables and pictures in one file that needs no other."""

import base64
import html
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxnets.check import worksheets
from jaxnets.cli import agreement

if TYPE_CHECKING:
    from jaxnets.cli.demo import Pair

SHORT = 50  # ms: shorter epochs are mostly the start of programs, and say nothing of speed
HEAD = (
    f"{'trained':<22}{'epochs':>7}{'accuracy':>10}{'last loss by hand':>19}{'by autodiff':>13}{'difference':>12}"
    f"{'ms an epoch by hand':>21}{'by autodiff':>13}{'ratio':>7}"
)
STYLE = """
:root { color-scheme: light; --ink: #22303c; --quiet: #6b7780; --line: #e3e8ec; --good: #2a7f4f; --bad: #b3261e; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: #fafbfc; margin: 0; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { max-width: 46rem; } .quiet { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; background: white; border: 1px solid var(--line); border-radius: 8px; padding: .4rem 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--quiet); text-align: right; padding: .45rem .6rem; }
td { text-align: right; padding: .28rem .6rem; } th:first-child, td:first-child, .left { text-align: left; }
tr.new td { border-top: 1px solid var(--line); }
td.good { color: var(--good); } td.bad { color: var(--bad); font-weight: 700; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pictures img { background: white; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; }
.pictures img { box-sizing: border-box; min-width: 0; }
pre { font-size: .8rem; line-height: 1.4; } img.errors { max-width: 100%; }
img.curve { flex: 3 1 24rem; max-width: 100%; } img.confusion { flex: 1 1 14rem; max-width: 20rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--quiet); }
"""


def line(pair: "Pair") -> str:
    """A row under HEAD."""
    by_hand, autodiff = pair.losses[-1]
    a, b = pair.seconds
    return (
        f"{pair.title:<22}{len(pair.losses):>7}{pair.accuracy:>10.4f}{by_hand:>19.6f}{autodiff:>13.6f}"
        f"{pair.difference:>12.0e}{1000 * a:>21.0f}{1000 * b:>13.0f}{_ratio(a, b):>7}"
    )


def _ratio(a: float, b: float) -> str:
    return f"{b / a:.2f}" if 1000 * min(a, b) >= SHORT else "–"


def _derivations(checked: list[tuple[worksheets.Case, Any]]) -> str:
    told = [_row("th", ["", "as written", "verdict", "line", "cause"], ["", *["left"] * 4])]
    for case, result in checked:
        said = case.told(result)
        mark = "good" if said["verdict"] == "right" else "bad"
        cells = [case.tag, case.written, said["verdict"], said["line"] or "", said["cause"].split("\n", 1)[0]]
        told.append(_row("td", cells, ["", "left", f"left {mark}", "left", "left"], "new"))
    return "".join(told)


def page(
    checked: list[tuple[worksheets.Case, Any]],
    shown: tuple[Any, Path],
    rows: list[dict[str, Any]],
    pairs: "list[Pair]",
    seconds: float,
) -> str:
    """All of it, as HTML: derivations with what was found, one of them in full with its picture, every gradient, and
    the trainings."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy", "optax"))
    where = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
    wrong = sum(not row["right"] for row in rows)
    verdict = "all agree" if not wrong else f"{wrong} do not agree"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jaxnets: gradients by hand</title><style>{STYLE}</style></head><body><main>
<h1>Gradients by hand</h1>
<p>Derivations from worksheets, checked; four nets whose backward pass is written by hand, compared with autodiff and
trained both ways.</p>
<p class="quiet">{html.escape(where)}. Made in {seconds:.0f} s by <code>jaxnets demo</code>.</p>
<h2>Derivations, checked</h2>
<p>As people wrote them. A wrong one is shown with its first wrong line and the most likely cause.</p>
<div class="wide"><table>{_derivations(checked)}</table></div>
<h2>One of them in full</h2>
<pre class="wide">{html.escape(str(shown[0]))}</pre>
<div class="pictures">{_picture(shown[1])}</div>
<h2>Every gradient of the nets: {len(rows)}, {verdict}</h2>
<p>The reference is <code>jax.grad</code> of the same net without a rule, in float64. Errors are the largest of an
array, in units of the dtype's rounding; the last column compares the rule with finite differences.</p>
<div class="wide"><table>{_agreement(rows)}</table></div>
<h2>Trained both ways</h2>
<p>The same start, the same order of examples. Losses are means over the last epoch; the difference is the largest of
any epoch, relative. Times are the median of an epoch, without the first, which compiles. A ratio above 1 means that
the hand-written gradient is faster; epochs shorter than {SHORT} ms have none.</p>
<div class="wide"><table>{_trained(pairs)}</table></div>
{"".join(map(_net, pairs))}
</main></body></html>
"""


def _agreement(rows: list[dict[str, Any]]) -> str:
    columns = (*agreement.DTYPES, "differences")
    told = [_row("th", ["net", "gradient of", *columns])]
    net = ""
    for row in rows:
        name, net = ("" if row["net"] == net else row["net"]), row["net"]
        figures = [f"{row[c]:.2f}" if c != "differences" else f"{row[c]:.0e}" for c in columns]
        marks = ["good" if row[c] <= agreement.LIMITS[c] else "bad" for c in columns]
        told.append(_row("td", [name, row["leaf"], *figures], ["", "left", *marks], "new" if name else ""))
    return "".join(told)


def _trained(pairs: "list[Pair]") -> str:
    heads = [
        "net",
        "epochs",
        "accuracy",
        "loss by hand",
        "by autodiff",
        "difference",
        "ms by hand",
        "by autodiff",
        "ratio",
    ]
    told = [_row("th", heads)]
    for pair in pairs:
        by_hand, autodiff = pair.losses[-1]
        a, b = pair.seconds
        figures = [f"{pair.accuracy:.1%}", f"{by_hand:.6f}", f"{autodiff:.6f}", f"{pair.difference:.0e}"]
        times = [f"{1000 * a:.0f}", f"{1000 * b:.0f}", _ratio(a, b)]
        told.append(_row("td", [pair.title, str(len(pair.losses)), *figures, *times], row="new"))
    return "".join(told)


def _net(pair: "Pair") -> str:
    rows = [_row("th", ["epoch", "loss by hand", "by autodiff"])]
    rows += [_row("td", [str(i), f"{a:.7f}", f"{b:.7f}"]) for i, (a, b) in enumerate(pair.losses.tolist(), 1)]
    return f"""<h3>{html.escape(pair.title)}</h3>
<div class="pictures">{_picture(pair.folder / "curve.png")}{_picture(pair.folder / "confusion.png")}</div>
<details><summary>losses of every epoch</summary><div class="wide"><table>{"".join(rows)}</table></div></details>
"""


def _row(cell: str, texts: list[str], marks: list[str] | None = None, row: str = "") -> str:
    marks = marks or [""] * len(texts)
    cells = (f'<{cell} class="{m}">{html.escape(t)}</{cell}>' for t, m in zip(texts, marks, strict=True))
    return f'<tr class="{row}">{"".join(cells)}</tr>\n'


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="{path.stem}" alt="{path.stem}" src="data:image/png;base64,{content}">'
