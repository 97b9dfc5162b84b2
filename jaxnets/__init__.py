"""Networks whose backward pass is written by hand, proven right against autodiff."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxnets import check as check
    from jaxnets import data as data
    from jaxnets import dense as dense
    from jaxnets import gated as gated
    from jaxnets import heads as heads
    from jaxnets import rnn as rnn
    from jaxnets import textconv as textconv
    from jaxnets import train as train

__version__ = "0.1.0"
__all__ = ("check", "data", "dense", "gated", "heads", "rnn", "textconv", "train")


def __getattr__(name: str) -> ModuleType:
    """Each room is imported when it is first asked for: the shell command hears Ctrl-C before JAX is there."""
    if name in __all__:
        return importlib.import_module(f"jaxnets.{name}")
    raise AttributeError(f"module 'jaxnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
