"""What people write for the derivative of a function of one number."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnets.check._alike import alike, as_wide_as, moved, shifted
from jaxnets.check._alter import slope_of

# Local derivatives that people write for another: of the operand x, the result q and the true derivative d.
_FORMS: dict[str, tuple[str, Callable[..., Any]]] = {
    "1": ("factor", lambda x, q, d: np.ones_like(d)),
    "its square": ("factor", lambda x, q, d: d * d),
    "q": ("factor", lambda x, q, d: q),
    "1 − q": ("factor", lambda x, q, d: 1 - q),
    "q²": ("factor", lambda x, q, d: q * q),
    "1 − q²": ("factor", lambda x, q, d: 1 - q * q),
    "1 + q²": ("sign", lambda x, q, d: 1 + q * q),
    "q (1 − q)": ("factor", lambda x, q, d: q * (1 - q)),
    "q (1 + q)": ("sign", lambda x, q, d: q * (1 + q)),
    "1/q": ("factor", lambda x, q, d: 1 / q),
    "1/q²": ("factor", lambda x, q, d: 1 / (q * q)),
    "1 − q²/2": ("factor", lambda x, q, d: 1 - q * q / 2),
    "q³": ("factor", lambda x, q, d: q**3),
    "x": ("place", lambda x, q, d: x),
    "1/x": ("place", lambda x, q, d: 1 / x),
    "1 − x²": ("place", lambda x, q, d: 1 - x * x),
    "x (1 − x)": ("place", lambda x, q, d: x * (1 - x)),
}


BY_RESULT = {"tanh": lambda q: 1 - q * q, "logistic": lambda q: q * (1 - q), "exp": lambda q: q}


def local_derivatives(site, mine, where, stored, sites):
    x, q = (np.asarray(v) for v in (mine.operands[0], mine.result))
    d = slope_of(site.eqn, x)
    for text, (kind, form) in _FORMS.items():
        what = {
            "1": f"the derivative of {where} is missing",
            "its square": f"the derivative of {where} is there twice",
        }.get(text, f"{text} in place of the derivative of {where}" + (", q its result" if "q" in text else ""))
        yield kind, what, lambda form=form: form(x, q, d)
    for place, s in stored.items():  # x = a − b: somebody may have put a + b, or a
        if sites[place].eqn.primitive.name == "sub" and np.array_equal(s.result, x):
            a, b = (as_wide_as(x, o) for o in s.operands)
            if np.any(b):
                told = f"the derivative of {where} taken at"
                yield (
                    "sign",
                    f"{told} the sum in place of the difference",
                    lambda a=a, b=b: slope_of(site.eqn, a + b),
                )
                yield (
                    "path",
                    f"{told} the first term of the difference alone",
                    lambda a=a: slope_of(site.eqn, a),
                )
                yield "path", f"{told} the second term alone", lambda b=b: slope_of(site.eqn, -b)
                for axis, by in itertools.product(range(len(site.lengths), a.ndim), (1, -1)):
                    late = f"{told} a difference whose first term is moved by {by} along axis {axis}"
                    yield (
                        "shift",
                        late,
                        lambda a=a, b=b, by=by, axis=axis: slope_of(site.eqn, moved(a, by, axis) - b),
                    )
                break
    yield "place", f"the derivative of {where} taken at its result", lambda: slope_of(site.eqn, q)
    if (by_result := BY_RESULT.get(site.eqn.primitive.name)) is not None:
        for kind, what, value in alike(site, q, stored, sites, most=8):
            yield kind, f"the derivative of {where} taken at {what}", lambda value=value: by_result(value)
    for way, rows in shifted(x, site):
        told = f"the derivative of {where} taken at the step {way}"
        yield "shift", told, lambda rows=rows: slope_of(site.eqn, rows)
