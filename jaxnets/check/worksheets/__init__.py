"""Derivations as people wrote them on worksheets, put down as code: right ones, and wrong ones that were handed in.

P1 to P6 are preliminaries; X1 to X11 belong to a text convolution, a recurrent net and a gated net. `run()` checks them
all; `table()` tells verdict, line and cause of each.

Letters are those of the page. `L` is a log-likelihood where the authors maximised one, else a loss to be minimised.
"""

import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.check._derivation import derivation
from jaxnets.check._gradient import gradient
from jaxnets.check._report import RIGHT, WRONG, CallerError, Report
from jaxnets.check.worksheets import _derivations as d

ERROR = "error"  # the derivation cannot be computed at all
LINES = "lines"
WIDTH = 110


class Case(NamedTuple):
    """A line of a worksheet, and what is to be said of it."""

    tag: str
    net: str
    written: str
    f: Callable[..., Any]
    by_hand: Callable[..., Any]
    args: Callable[[], tuple[Any, ...]]
    verdict: str = RIGHT
    line: str | None = None  # the first wrong line
    kinds: tuple[str, ...] = ()  # kinds of cause, any of which says what is wrong
    argnums: Any = 0  # of `check.gradient`; LINES for `check.derivation`

    def check(self) -> Report | CallerError:
        """The report, or the error that the derivation raised."""
        with jax.enable_x64(True):
            try:
                if self.argnums is LINES:
                    return derivation(self.f, self.by_hand, self.args)
                return gradient(self.f, self.by_hand, self.args, self.argnums)
            except CallerError as error:
                return error

    def told(self, found: Report | CallerError) -> dict[str, Any]:
        """What was found, in a few words."""
        verdict, line, cause = ERROR, None, str(found).replace(d.__file__, Path(d.__file__).name)
        if isinstance(found, Report):
            verdict, line = (RIGHT if found.ok else WRONG), found.first
            cause = str(next(iter(found[line].causes), "")) if line else ""
        said = {"verdict": verdict, "line": line, "cause": cause, "as_expected": self.expects(found)}
        return {"tag": self.tag, "net": self.net, "written": self.written, **said}

    def expects(self, found: Report | CallerError) -> bool:
        """Is this what is to be said of it: the verdict, the line, and a cause among the first three?"""
        if isinstance(found, CallerError) or self.verdict == ERROR:
            return isinstance(found, CallerError) and self.verdict == ERROR
        if self.line is None or found.first != self.line:
            return found.ok and self.line is None
        return any(cause.kind in self.kinds for cause in found[self.line].causes[:3])


def _p(tag: str, written: str, function: Callable[..., Any], by_hand: Callable[..., Any], *expected: Any) -> Case:
    def f(x, r):
        return (r * function(x)).sum()

    return Case(tag, "preliminaries", written, f, by_hand, d.elementwise, *expected)


def _text(tag: str, written: str, by_hand: Callable[..., Any], *expected: Any) -> Case:
    return Case(tag, "text convolution", written, d.text, by_hand, d.sentence, *expected, argnums=LINES)


def _recurrent(tag: str, written: str, by_hand: Callable[..., Any], *expected: Any, argnums: Any = LINES) -> Case:
    return Case(tag, "recurrent", written, d.recurrent, by_hand, d.sequence, *expected, argnums=argnums)


def _gated(tag: str, written: str, by_hand: Callable[..., Any], *expected: Any, **sizes: Any) -> Case:
    return Case(tag, "gated", written, d.gated, by_hand, lambda: d.pair(**sizes), *expected, argnums=LINES)


def cases() -> list[Case]:
    """All of them, in the order of the page, X5 among its like."""
    w_and_u = "∂L_t/∂W = (ŷ_t−y_t) × Vᵀ × (1 − tanh²) × h_{t−1}, ∂L_t/∂U likewise"
    return [
        _p("P1", "(c·x)' = c", lambda x: 3.0 * x, d.p1),
        _p("P2", "(log x)' = 1/x", jnp.log, d.p2),
        _p("P3", "σ'(x) = σ(x)(1 − σ(x))", jax.nn.sigmoid, d.p3),
        _p("P4", "tanh' x = 1 − tanh²x = sech²x", jnp.tanh, d.p4),
        _p("P5", "((2x)²)' = 8x", lambda x: (2 * x) ** 2, d.p5),
        _p("P6", "∂ softmax(z)_i / ∂z_k = ŷ_i(δ_ik − ŷ_k)", jax.nn.softmax, d.p6),
        _text("X1", "∂L/∂V = (y − σ(Vh)) h", d.x1),
        _text("X2", "∂L/∂U = (y − σ(Vh)) V × sech²(U), every cell of U", d.x2, WRONG, "U", ("place",)),
        _text("X3", "∂L/∂u_j = (y−σ) v_j (1 − tanh²(x_m·u_j)) x_m", d.x3),
        _text("X4", "as X3, simplified to columns of v_j (1 − tanh²(·))", d.x4, WRONG, "U", ("factor",)),
        _p("X5", "tanh' = 1 = tanh²(x)", d.tanh, d.x5, WRONG, "x", ("factor", "sign")),
        _recurrent("X6", "∂L_t/∂V = h_tᵀ(ŷ_t − y_t)", d.x6),
        _recurrent("X7", w_and_u, d.x7, WRONG, "W", ("truncation",)),
        _recurrent("X8", "dh_t/dW as explicit + implicit, unrolled to three steps", d.x8, argnums=1),
        _gated("X9", "ȳ = (t−y)/(y(1−y)), z̄_y = ȳ σ', then down to W, U, x, η", d.x9),
        _gated("X9", "the same, once y saturates", d.x9, WRONG, "z_y", ("nan",), size=1e3),
        _gated("X10", "W ∈ R^{c×d} beside x ∈ R^a", d.x9, ERROR, rows=6),
        _gated("X11", "z̄ = h̄ ⊙ diag(s), as a matrix", d.x11, WRONG, "z", ("shape",)),
    ]


def run() -> Iterator[tuple[Case, Report | CallerError]]:
    """Check them one after the other."""
    for case in cases():
        yield case, case.check()


def table(found: Iterable[tuple[Case, Report | CallerError]]) -> Iterator[str]:
    """As lines of text: what was written, the verdict, the first wrong line, and below them why it is wrong."""
    yield f"{'':<5}{'net':<18}{'as written':<69}{'verdict':<9}line"
    for case, result in found:
        said = case.told(result)
        line = f"{case.tag:<5}{case.net:<18}{_padded(case.written, 69)}{said['verdict']:<9}{said['line'] or ''}"
        yield line.rstrip() + ("" if said["as_expected"] else "  UNEXPECTED")
        for text in said["cause"].splitlines():
            yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 9)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - sum(not unicodedata.combining(letter) for letter in text))  # z̄ is two, and one wide
