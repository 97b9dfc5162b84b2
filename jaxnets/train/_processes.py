"""Several processes, one run: what the first has, the others have; what must be alike; and that one is gone.

All of it goes through `jax.experimental.multihost_utils`, that is through the devices; nothing here opens a connection.
Each of these functions is called by every process, or none.
"""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxnets.train._keys import is_key

WIDTH = 64  # bytes of a fact, as it is compared
FACTS = 8  # at most so many are
_BETWEEN = re.compile("Gloo|NCCL|RCCL|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|coordination")  # of what goes between them
GONE = "another process of this run has stopped, or cannot be reached any more."


class Lost(ConnectionError):  # noqa: N818
    """A process of the run does not answer any more."""


def several(mesh: Mesh | None) -> bool:
    return mesh is not None and mesh.is_multi_process


def is_first() -> bool:
    return jax.process_index() == 0


def writes(mesh: Mesh | None) -> bool:
    """Of several processes the first alone writes files, and shows what there is to see."""
    return not several(mesh) or is_first()


def any_of(flag: bool) -> bool:
    """Whether it is so for one of the processes."""
    return bool(all_of(np.array(flag)).any())


def together(mesh: Mesh | None, act: Callable[[], bool | None]) -> bool:
    """What each process does by itself, and whether it came out true in one of them. Where it fails in one, no other
    waits for that one."""
    if not several(mesh):
        return bool(act())
    try:
        came = bool(act())
    except BaseException:
        all_of(np.array([False, True]))
        raise
    flags = all_of(np.array([came, False]))
    if flags[:, 1].any():
        raise Lost(f"process {flags[:, 1].argmax()} of this run has failed; see its own output.")
    return bool(flags[:, 0].any())


def all_of(a: np.ndarray) -> np.ndarray:
    """Of each process an array of one shape, `[processes, …]`; the bits are not touched."""
    as_bytes = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    found = np.ascontiguousarray(multihost_utils.process_allgather(as_bytes))
    return found.view(a.dtype).reshape(len(found), *a.shape)


def from_first(content: bytes) -> bytes:
    """The bytes that the first process has."""
    length = int(all_of(np.array(len(content)))[0])
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes() if length else b""


def as_first(tree: Any, record: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arrays and record of the first process; those of the others are of the same shapes."""
    leaves, structure = jax.tree.flatten(tree)
    bits = [np.asarray(jax.random.key_data(a) if is_key(a) else a) for a in leaves]
    sizes = [a.nbytes for a in bits]
    content = from_first(b"".join(a.tobytes() for a in bits) + json.dumps(record).encode())
    found = []
    for a, leaf, end in zip(bits, leaves, np.cumsum(sizes), strict=True):
        new = jnp.asarray(np.frombuffer(content[end - a.nbytes : end], a.dtype).reshape(a.shape))
        found.append(jax.random.wrap_key_data(new, impl=jax.random.key_impl(leaf)) if is_key(leaf) else new)
    return jax.tree.unflatten(structure, found), json.loads(content[sum(sizes) :])


def of_this_process(tree: Any) -> Any:
    """Replicated arrays as those of this process's first device, which go with others of this process."""
    return jax.tree.map(lambda a: a.addressable_data(0) if not a.is_fully_addressable else a, tree)


def check_alike(facts: Mapping[str, str]) -> None:
    """Refuse to go on where processes differ in one of these, or in the versions of jaxnets and JAX."""
    _check_devices()
    versions = {f"the version of {name}": metadata.version(name) for name in ("jaxnets", "jax")}
    facts = versions | dict(facts)
    assert len(facts) <= FACTS
    mine = np.zeros((FACTS, WIDTH), np.uint8)
    for row, fact in zip(mine, facts.values(), strict=False):
        told = fact.encode()
        told = told if len(told) <= WIDTH else hashlib.blake2b(told, digest_size=WIDTH).digest()
        row[: len(told)] = np.frombuffer(told, np.uint8)
    everyones = all_of(mine)
    for i, name in enumerate(facts):
        if others := [p for p, theirs in enumerate(everyones) if (theirs[i] != everyones[0, i]).any()]:
            told = ""
            if name in versions:
                first, other = (everyones[p, i].tobytes().rstrip(b"\0").decode() for p in (0, others[0]))
                told = f" ({other} and {first})"
            raise ValueError(
                f"process {others[0]} and process 0 differ in {name}{told}; all of a run must have the same versions, "
                "the same data and the same options"
            )


def check_same(params: Any, when: str) -> None:
    """Each process makes its own steps: that they come to the same bits is seen, not assumed."""
    digest = hashlib.blake2b(digest_size=16)
    for a in jax.tree.leaves(of_this_process(params)):
        digest.update(np.ascontiguousarray(a).tobytes())
    everyones = all_of(np.frombuffer(digest.digest(), np.uint8))
    if others := [p for p, theirs in enumerate(everyones) if (theirs != everyones[0]).any()]:
        told = "the loss, the optimizer and the kind of machine must be the same in all"
        raise ValueError(f"process {others[0]} and process 0 differ in their parameters after {when}; {told}")


def _check_devices() -> None:
    """Told beforehand: what goes between processes needs as many devices in each."""
    devices = Counter(d.process_index for d in jax.devices())
    if others := [p for p in devices if devices[p] != devices[0]]:
        raise ValueError(
            f"process {others[0]} has {devices[others[0]]} devices and process 0 has {devices[0]}; each needs as many"
        )


@contextlib.contextmanager
def watched(several: bool, kept: Callable[[], str]) -> Iterator[None]:
    """Within it the failure of what goes between processes is told as what it is, with what is `kept`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not several or isinstance(error, Lost) or not _BETWEEN.search(str(error)):
            raise
        reason = re.sub(r"\[external\S*\] ", "", str(error).split("\n", 1)[0])
        raise Lost(f"{GONE} {kept()}({reason})") from error
