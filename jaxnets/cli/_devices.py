"""Over how many devices a run is spread: `--devices N`, or as many as pay.

On a CPU a device is a thread that has a share of each batch to itself. As many as there are cores pay while each has
its parameters and their gradient in its own cache; a larger net gains more from all cores in one product.
"""

import contextlib
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

AUTO = "auto"
IN_CACHE = 2 * 2**20  # bytes of parameters


def prepare(asked: str) -> None:
    """Before JAX starts: a CPU is as many devices as are asked for, a core each. Later, `mesh` takes what is there."""
    count = min(number(asked) or _cores(), _cores())
    if count > 1:
        with contextlib.suppress(RuntimeError):  # it has started
            jax.config.update("jax_num_cpu_devices", count)


def mesh(asked: str, params: Any) -> Mesh | None:
    """The devices of a run with such parameters, of several processes so many of each; None for one."""
    there, count = jax.local_devices(), number(asked)
    if count > len(there):
        raise ValueError(f"--devices must be at most {len(there)} here; got {count}")
    if not count:
        small = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params)) <= IN_CACHE
        on_cpu = there[0].platform == "cpu"
        count = (min(_cores(), len(there)) if small else 1) if on_cpu else len(there)
    if jax.process_count() > 1:  # so many of each process
        by_process = [[d for d in jax.devices() if d.process_index == p] for p in range(jax.process_count())]
        return Mesh(np.array([d for devices in by_process for d in devices[:count]]), ("batch",))
    return None if count == 1 else Mesh(np.array(there[:count]), ("batch",))


def number(asked: str) -> int:
    """What is asked for; 0 for auto."""
    if asked == AUTO:
        return 0
    if not asked.isdecimal() or not 1 <= int(asked) <= 4096:
        raise ValueError(f"--devices must be a number from 1, or {AUTO}; got {asked!r}")
    return int(asked)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
