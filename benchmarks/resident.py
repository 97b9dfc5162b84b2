"""How much memory a step of PyTorch takes: no compiler counts it, so that a process of its own is watched.

    python -m benchmarks.resident NET SIZE WHAT

prints by how many bytes the most that was ever resident during a step exceeds what was resident before.
"""

import ctypes
import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Work
from jaxnets._arrays import on_cpu

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def of_torch(work: Work) -> int | None:
    """None where there is no PyTorch, or no system that can tell."""
    others = list(work.others().values())
    if others and not on_cpu():
        return _peak(others[0])
    if not others or not RESET.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.resident", work.net, work.size, work.what]
    root = Path(__file__).parents[1]
    return int(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)


def _kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found
    return int(found[1])


def _peak(step: Callable[[], float]) -> int:
    """Of the second step, since the first one brings threads and code; what it left to the allocator is given back."""
    import torch

    step()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = _kilobytes("VmRSS")
    RESET.write_text("5")  # from here on counts what is the most
    step()
    return 1024 * (_kilobytes("VmHWM") - before)


def main() -> int:
    """Print a peak."""
    net, size, what = sys.argv[1:]
    works = importlib.import_module(f"benchmarks.{net}").works(False)
    (work,) = (work for work in works if (work.size, work.what) == (size, what))
    (step,) = work.others().values()
    print(_peak(step))
    return 0


if __name__ == "__main__":
    sys.exit(main())
