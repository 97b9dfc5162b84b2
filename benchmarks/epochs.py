"""How long an epoch of training takes: our loop, the same loop with autodiff of plain forms, and PyTorch's.

    python -m benchmarks.epochs [mnist-rows] [mr] [--data FOLDER] [--rounds N] [--json]

The same net, batches, Adam and number of examples for all, without dropout; all cores for all. They take turns, a
stretch of the epoch each; what is told is the median over rounds, for a whole epoch.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import rnn as rnn_forms
from benchmarks import textconv as text_forms
from benchmarks.tasks import _mnist
from benchmarks.timing import interleaved
from jaxnets import data, rnn, textconv
from jaxnets.train._steps import runner, start

RATE = 1e-3
Steps = Callable[[np.ndarray], Any]  # which examples make which step [steps, batch] -> done


class Contestant(NamedTuple):
    """A way to train."""

    name: str
    run: Steps
    steps: int  # that it is timed over


class Task(NamedTuple):
    """An epoch, and who trains it."""

    examples: int
    batch: int
    contestants: list[Contestant]


def mnist_rows(folder: Path) -> Task:
    """MNIST by rows, a tanh net of 128."""
    given = _mnist(folder, "train")
    net = rnn.init(jax.random.key(0), 28, 128, 10)
    losses = {
        "ours": rnn.loss,
        "jax.grad, x U in the loop": partial(rnn_forms.plain, hoisted=False),
        "jax.grad, x U before the loop": partial(rnn_forms.plain, hoisted=True),
    }
    everybody = [Contestant(name, _jax(loss, net, given, {}), 200) for name, loss in losses.items()]
    return Task(60_000, 50, everybody + _torch(_torch_rnn, net, given, 200))


def mr(folder: Path) -> Task:
    """Movie reviews, widths 3, 4, 5 of 100 filters, word vectors of 300 that are trained."""
    texts = data.read_polarity(*(folder / "mr" / f"rt-polarity.{end}" for end in ("neg", "pos")))
    sentences = [text.split() for text in texts.texts]
    vocabulary = data.Vocabulary.of(sentences)
    (given,) = data.buckets(list(map(vocabulary.encoder(), sentences)), texts.labels, longest=60)
    del given["lengths"]  # words that are not there are word 0, for everybody
    net = textconv.init(jax.random.key(0), 300, (3, 4, 5), 100, outputs=2, vocab=vocabulary.size)
    everybody = [Contestant("ours", _jax(textconv.loss, net, given, {"E": "x"}), 60)]
    for name, form in text_forms.FORMS.items():
        steps = 6 if form is text_forms.convolved else 30  # a convolution's takes a minute an epoch and more
        everybody.append(Contestant(f"jax.grad, {name}", _jax(partial(text_forms.plain, form), net, given, {}), steps))
    return Task(len(sentences) * 9 // 10, 50, everybody + _torch(_torch_text, net, given, 60))


def _jax(loss: Any, net: Any, given: dict[str, np.ndarray], rows: dict[str, str]) -> Steps:
    on_device = jax.tree.map(jnp.asarray, given)
    optimizer = optax.adam(RATE)
    state, run = start(net, optimizer, 0), runner(loss, optimizer, rows)

    def steps(order: np.ndarray) -> None:
        nonlocal state
        state, losses = run(state, on_device, jnp.asarray(order), len(order))
        losses.block_until_ready()

    return steps


def _torch(make: Callable[[Any], tuple[Any, Any]], net: Any, given: dict[str, np.ndarray], steps: int) -> list[Any]:
    if not importlib.util.find_spec("torch"):
        return []
    import torch

    modules, logits = make(net)
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], RATE)
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"].astype(np.int64))

    def run(order: np.ndarray) -> None:
        for examples in torch.from_numpy(order.astype(np.int64)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(x[examples]), y[examples]).backward()
            optimizer.step()

    return [Contestant("PyTorch", run, steps)]


def _torch_rnn(net: rnn.Params) -> tuple[Any, Any]:
    import torch

    D, H = net.U.shape
    cell, head = torch.nn.RNN(D, H, batch_first=True), torch.nn.Linear(H, net.V.shape[1])
    return (cell, head), lambda x: head(cell(x)[1][0])


def _torch_text(net: textconv.Params) -> tuple[Any, Any]:
    import torch

    assert net.E is not None
    (N, S), (features, classes) = net.E.shape, net.V.shape
    table, head = torch.nn.Embedding(N, S), torch.nn.Linear(features, classes)
    convs = [torch.nn.Conv1d(U.shape[1], U.shape[2], U.shape[0]) for U in net.U]

    def logits(x: Any) -> Any:
        w = table(x).transpose(1, 2)
        return head(torch.tanh(torch.cat([conv(w).amax(2) for conv in convs], 1)))

    return (table, head, *convs), logits


TASKS = {"mnist-rows": mnist_rows, "mr": mr}


def measured(task: Task, rounds: int) -> dict[str, Any]:
    """Seconds of an epoch, and each ratio to ours by rounds."""
    rng, steps = np.random.default_rng(0), task.examples // task.batch
    runs = [
        partial(c.run, rng.integers(0, task.examples, (c.steps, task.batch)).astype(np.int32)) for c in task.contestants
    ]
    for run in runs:
        run()  # compiled
    times = interleaved(runs, rounds, 0.0) * np.array([steps / c.steps for c in task.contestants])
    names = [c.name for c in task.contestants]
    seconds = dict(zip(names, np.median(times, 0).tolist(), strict=True))
    ratios = dict(zip(names, np.median(times / times[:, :1], 0).tolist(), strict=True))
    return {"steps": steps, "batch": task.batch, "rounds": len(times), "seconds": seconds, "ratios": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epochs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (both if none is named)")
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXNETS_DATA"), metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each task")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data or JAXNETS_DATA must name the folder of the data")
    if unknown := [task for task in options.tasks if task not in TASKS]:
        parser.error(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}")
    for name in options.tasks or TASKS:
        found = measured(TASKS[name](options.data), options.rounds)
        if options.json:
            print(json.dumps({"task": name, **found}), flush=True)
            continue
        print(f"{name}: an epoch of {found['steps']} steps of {found['batch']}, median of {found['rounds']} rounds")
        for who, seconds in found["seconds"].items():
            print(f"  {who:<32}{seconds:8.2f} s{found['ratios'][who]:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
