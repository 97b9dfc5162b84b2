"""A line on the terminal that says how far a long check has come."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any


def progress(items: Iterable[Any], what: str) -> Iterator[Any]:
    """Go through `items`; from the second second on, say how far, where standard error is a terminal."""
    total = len(items) if isinstance(items, Sized) else None
    begin, told = time.monotonic(), False
    for done, item in enumerate(items):
        if sys.stderr.isatty() and time.monotonic() - begin > 2:
            of = f" of {total}" if total else ""
            sys.stderr.write(f"\r\033[K{what}: {done}{of}")
            sys.stderr.flush()
            told = True
        yield item
    if told:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
