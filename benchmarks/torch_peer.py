"""PyTorch's side of a benchmark: the same weights, the same data, a forward and a backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

torch.backends.cudnn.allow_tf32 = False  # as for products of matrices: full float32
DEVICE = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def tensor(a: Any) -> torch.Tensor:
    a = np.array(a)
    return torch.from_numpy(a.astype(np.int64) if a.dtype.kind in "iu" else a).to(DEVICE)


def put(module: torch.nn.Module, **weights: Any) -> None:
    """Set a module's parameters."""
    with torch.no_grad():
        for name, value in weights.items():
            getattr(module, name).copy_(tensor(value))


def step(
    loss: Callable[..., torch.Tensor], modules: Sequence[Any], data: Sequence[Any], trains_data: bool = False
) -> Callable[[], float]:
    """A step, on the device that JAX computes on, as a function without arguments. Gradients are made anew each time,
    as an optimizer's loop does."""
    tensors = [tensor(a) for a in data]
    modules = [m.to(DEVICE) if isinstance(m, torch.nn.Module) else m for m in modules]
    tensors[0].requires_grad_(trains_data)
    leaves = [p for m in modules for p in (m.parameters() if isinstance(m, torch.nn.Module) else [m])]
    leaves += tensors[:1] if trains_data else []

    def run() -> float:
        value = loss(*tensors)
        value.backward()
        for p in leaves:
            p.grad = None
        return value.item()

    return run
