"""Figures on real data, beside those that are published for such nets.

    python -m benchmarks.tasks [TASK …] [--data FOLDER] [--json]

Data lie in the folder that JAXNETS_DATA names. Early stopping sees only a part of the training set; the test set is
scored once, at the end. Where nothing is held out, the number of epochs was chosen beforehand, on the first folds.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets import data, gated, heads, rnn, textconv, train
from jaxnets.check._progress import progress

Say = Callable[[str], None]


def mnist_rows(folder: Path, say: Say) -> dict[str, Any]:
    """Tanh net of 128 over the 28 rows of an image, at most 20 epochs: accuracy on the test set."""
    parts = {part: _mnist(folder, part) for part in ("train", "t10k")}
    return _digits(rnn.init(jax.random.key(0), 28, 128, 10), parts, 20, say)


def mnist_pixels(folder: Path, say: Say) -> dict[str, Any]:
    """The same over its 784 pixels, 10 epochs. What makes it learn: W begins orthogonal and moves slowly, at a
    thirtieth of the others' rate; and inputs enter a tenth as strong, zero where the paper is white, so that no state
    is saturated long before its end."""
    parts = {part: _mnist(folder, part) for part in ("train", "t10k")}
    for part in parts.values():
        part["x"] = part["x"].reshape(-1, 784, 1)
    net = rnn.init(jax.random.key(0), 1, 128, 10)
    return _digits(net._replace(U=0.1 * net.U), parts, 10, say, rate_of_W=0.03)


def _digits(net: rnn.Params, parts: dict[str, Any], epochs: int, say: Say, rate_of_W: float = 1.0) -> dict[str, Any]:
    rest, held_out = data.split(60_000, 5_000 / 60_000)
    batch = 50

    def slow_W(updates: Any, _: Any) -> Any:
        return updates._replace(W=rate_of_W * updates.W)

    schedule = optax.cosine_onecycle_schedule(epochs * (len(rest) // batch), 1e-3)
    adam = optax.adamw(schedule, weight_decay=1e-3)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam, optax.stateless(slow_W))
    fitted = train.fit(
        rnn.loss, net, data.take(parts["train"], rest), optimizer, epochs=epochs, batch=batch,
        validation=train.Validation(data.take(parts["train"], held_out), rnn.predict, "accuracy"), watch=_watch(say),
    )  # fmt: skip
    found = train.scores(rnn.loss, rnn.predict, fitted.params, parts["t10k"])
    return {"accuracy": found["accuracy"], "epochs": len(fitted.history)}


def _mnist(folder: Path, part: str) -> dict[str, np.ndarray]:
    (images,), (labels,) = (list(Path(folder, "mnist").glob(f"{part}-{what}*")) for what in ("images", "labels"))
    x = data.read_idx(images).astype(np.float32) / 255
    return {"x": x, "y": data.read_idx(labels).astype(np.int32)}


def mr(folder: Path, say: Say) -> dict[str, Any]:
    """Movie reviews, ten folds, widths 3, 4, 5 of 100 filters, no pretrained vectors, for a fixed number of epochs, so
    that nothing need be held out. Three such nets decide by the mean of their probabilities: mean accuracy."""
    texts = data.read_polarity(*(folder / "mr" / f"rt-polarity.{end}" for end in ("neg", "pos")))
    sentences = [text.split() for text in texts.texts]
    net = partial(_text_net, widths=(3, 4, 5), filters=100, embed=300)
    found = [
        _text_fold(sentences, texts.labels, examples, test, seed, net, epochs=7, watched=False, nets=3)
        for seed, (examples, test) in enumerate(progress(list(data.folds(len(sentences), 10)), "mr: folds"))
    ]
    return _over_folds(found, say)


def sms(folder: Path, say: Say) -> dict[str, Any]:
    """Messages, spam or not, trained on the first 30% of the file: accuracy on the rest."""
    texts = data.read_tsv(folder / "sms" / "SMSSpamCollection")
    sentences = [data.words(text) for text in texts.texts]
    n = round(0.3 * len(sentences))
    net = partial(_text_net, widths=(1, 2, 3), filters=100, embed=100)
    found, _ = _text_fold(sentences, texts.labels, np.arange(n), np.arange(n, len(sentences)), 0, net)
    return {"accuracy": found, "trained on": n}


def _text_net(seed: int, vocab: int, widths: tuple[int, ...], filters: int, embed: int) -> textconv.Params:
    return textconv.init(
        jax.random.key(seed), embed=embed, widths=widths, filters=filters, outputs=2, vocab=vocab
    )  # fmt: skip


def _text_fold(sentences, labels, examples, test, seed, net, epochs=12, watched=True, nets=1) -> tuple[float, float]:
    """Train nets on `examples`, a tenth of which may be watched; accuracy on `test`, of all together and of one."""
    rest, held_out = (examples[part] for part in data.split(len(examples), 0.1, seed)) if watched else (examples, None)
    vocabulary = data.Vocabulary.of(sentences[i] for i in rest)
    encode = vocabulary.encoder()

    def padded(part, count):
        return data.buckets([encode(sentences[i]) for i in part], labels[part], count, longest=100)

    validation = train.Validation(padded(held_out, 1)[0], textconv.predict, "accuracy", patience=4) if watched else None
    said, asked = [], padded(test, 1)[0]
    for number in range(seed * nets, (seed + 1) * nets):
        fitted = train.fit(
            partial(textconv.loss, drop=0.5), net(number, vocabulary.size), padded(rest, 4), optax.adam(1e-3),
            epochs=epochs, batch=50, seed=number, validation=validation, rows={"E": "x"},
        )  # fmt: skip
        said.append(train.predictions(textconv.predict, fitted.params, asked))
    return _together(said, asked["y"])


def _together(said: list[np.ndarray], y: np.ndarray) -> tuple[float, float]:
    """Accuracy of what nets say together, by the mean of their probabilities, and the mean of what each has alone."""
    right = [np.mean((p > 0.5 if p.ndim == 1 else p.argmax(-1)) == y) for p in (np.mean(said, 0), *said)]
    return float(right[0]), float(np.mean(right[1:]))


def _over_folds(found: list[tuple[float, float]], say: Say) -> dict[str, Any]:
    say(" ".join(f"{together:.4f}" for together, _ in found))
    together, alone = np.transpose(found)
    return {
        "accuracy": float(together.mean()),
        "spread": float(together.std()),
        "of one": float(alone.mean()),
        "folds": len(found),
    }


def names(folder: Path, say: Say) -> dict[str, Any]:
    """First names by gender, ten folds, tanh nets of 128 over their characters: mean accuracy.

    A name is read by two nets, one from its beginning and one from its end; each learns to tell from all that it has
    read so far, and both together from the whole name, with a fifth of the characters forgotten at each step; for a
    fixed number of epochs, so that nothing need be held out. Three such pairs decide by the mean of their
    probabilities."""
    files = [folder / "names" / f"{who}.txt" for who in ("female", "male")]
    texts = data.read_polarity(*files)
    spelled = [f"^{text.strip().lower()}$" for text in texts.texts]
    alphabet = {character: i for i, character in enumerate(sorted(set("".join(spelled))))}
    read = [np.array([alphabet[c] for c in name], np.int32) for name in spelled]
    x, back = (_padded([name[::way] for name in read]) for way in (1, -1))
    whole = {"x": x, "back": back, "y": texts.labels, "lengths": np.array([len(name) for name in read])}
    forgotten, epochs, batch, pairs = len(alphabet), 40, 32, 3

    def so_far(net, x, y, lengths, key):
        """The state after the whole, and the loss of all that was read on the way."""
        x = jnp.where(jax.random.bernoulli(key, 0.2, x.shape), forgotten, x)
        h = rnn.states(x, net.U, net.W, net.b, lengths=lengths)
        reached = (jnp.arange(x.shape[1])[None] < lengths[:, None]).astype(h.dtype)
        everywhere = heads.logistic(h, net.V, net.c, jnp.broadcast_to(y[:, None], x.shape), weights=reached)
        return jnp.take_along_axis(h, lengths[:, None, None] - 1, 1)[:, 0], everywhere

    def loss(nets, x, back, y, lengths, key):
        (forth_net, back_net), (key_forth, key_back) = nets, jax.random.split(key)
        h_forth, of_beginnings = so_far(forth_net, x, y, lengths, key_forth)
        h_back, of_endings = so_far(back_net, back, y, lengths, key_back)
        h, V = jnp.concatenate([h_forth, h_back], -1), jnp.concatenate([forth_net.V, back_net.V])
        return of_beginnings + of_endings + heads.logistic(h, V, forth_net.c + back_net.c, y)

    def predict(nets, x, back, lengths):
        return jax.nn.sigmoid(sum(rnn.forward(net, way, lengths) for net, way in zip(nets, (x, back), strict=True)))

    found = []
    for fold, (examples, test) in enumerate(progress(list(data.folds(len(read), 10)), "names: folds")):
        rate = optax.cosine_onecycle_schedule(epochs * (len(examples) // batch), 2e-3)
        said = []
        for seed in (fold * pairs + i for i in range(pairs)):
            keys = jax.random.split(jax.random.key(seed))
            fitted = train.fit(
                loss, tuple(rnn.init(key, forgotten + 1, 128, 1) for key in keys), data.take(whole, examples),
                optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), epochs=epochs, batch=batch, seed=seed,
            )  # fmt: skip
            said.append(train.predictions(predict, fitted.params, data.take(whole, test)))
        found.append(_together(said, whole["y"][test]))
    return _over_folds(found, say)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    (padded,) = data.buckets(rows, np.arange(len(rows)))
    return padded["x"][np.argsort(padded["y"])]  # buckets sort by length


ADULT = [
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race",
    "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
]  # fmt: skip
WORK = ["workclass", "education", "education_num", "occupation", "capital_gain", "capital_loss", "hours_per_week"]
PERSON = ["age", "marital_status", "relationship", "race", "sex", "native_country"]
STEPS = {
    "age": 5.0,
    "hours_per_week": 5.0,
    "capital_gain": 0.5,
    "capital_loss": 0.5,
}  # of their logarithm, the last two


def adult(folder: Path, say: Say) -> dict[str, Any]:
    """Census income, original split, all rows; x is a person's work, eta the person: accuracy and AUC. Numbers come
    twice, as they are and by steps, since income is no straight line in any of them."""
    tables = [data.read_csv(folder / "adult" / f"adult.{end}", ADULT, comment="|") for end in ("data", "test")]
    y = [np.char.startswith(table["income"], ">50K").astype(np.float32) for table in tables]
    known = {}
    for table in tables:
        for name, step in STEPS.items():
            table[name] = np.log1p(table[name]) if name.startswith("capital") else table[name]
            steps = np.round(table[name] / step).astype(int).astype(str)
            table[f"{name} by steps"] = np.where(np.isin(steps, known.setdefault(name, steps)), steps, "")
    groups = [
        data.Columns.of(tables[0], names + [f"{name} by steps" for name in names if name in STEPS])
        for names in (WORK, PERSON)
    ]
    whole, test = ({"x": groups[0].rows(t), "eta": groups[1].rows(t), "y": y_} for t, y_ in zip(tables, y, strict=True))
    rest, held_out = data.split(len(y[0]), 0.1)
    net = gated.init(jax.random.key(0), x=groups[0].size, eta=groups[1].size, hidden=16)
    net = net._replace(W=0.3 * net.W, U=0.3 * net.U)  # nearly without products at first
    fitted = train.fit(
        gated.loss, net, data.take(whole, rest), optax.adamw(1e-3, weight_decay=0.1), epochs=60, batch=128,
        validation=train.Validation(data.take(whole, held_out), gated.predict, patience=10), watch=_watch(say),
    )  # fmt: skip
    return train.scores(gated.loss, gated.predict, fitted.params, test)


def shakespeare(folder: Path, say: Say) -> dict[str, Any]:
    """Characters of Shakespeare, the next from those before, a loss at every step: nats a character on the last tenth,
    read from its beginning to its end. A tenth of the states are dropped before the head, the same at all steps. Three
    such nets foretell by the mean of their probabilities."""
    numbers, alphabet = data.read_characters(folder / "shakespeare" / "input.txt")
    last = len(numbers) * 9 // 10
    watched = last * 19 // 20

    def loss(net, x, y, key=None):
        if key is None:
            return rnn.loss(net, x, y)
        h = rnn.states(x, net.U, net.W, net.b)
        kept = jax.random.bernoulli(key, 0.9, (h.shape[0], 1, h.shape[2])) / jnp.float32(0.9)
        return heads.softmax(h * kept, net.V, net.c, y)

    x, y = data.stretches(numbers[:watched], 128)
    epochs, batch = 20, 16
    rate = optax.cosine_onecycle_schedule(epochs * (len(x) // batch), 2e-3)
    said, held_out = [], numbers[last:]
    for number in range(3):
        fitted = train.fit(
            loss, rnn.init(jax.random.key(number), len(alphabet), 512, len(alphabet)), (x, y),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-2)), epochs=epochs,
            batch=batch, seed=number, validation=data.stretches(numbers[watched:last], 1024), watch=_watch(say),
        )  # fmt: skip
        said.append(np.asarray(rnn.predict(fitted.params, held_out[:-1], every_step=True)))
    steps = np.arange(len(held_out) - 1)
    nats = [-float(np.log(p[steps, held_out[1:]]).mean()) for p in (np.mean(said, 0), *said)]
    return {"nats": nats[0], "of one": float(np.mean(nats[1:]))}


TASKS = {
    "mnist-rows": mnist_rows,
    "mnist-pixels": mnist_pixels,
    "mr": mr,
    "sms": sms,
    "names": names,
    "adult": adult,
    "shakespeare": shakespeare,
}


def _watch(say: Say) -> Callable[[train.Progress], None]:
    def watch(p: train.Progress) -> None:
        if p.entry:
            figures = " ".join(
                f"{name} {value:.4f}" for name, value in p.entry.items() if name not in ("epoch", "step")
            )
            say(f"epoch {p.epoch} of {p.epochs}: {figures}")

    return watch


def _run(task: str, folder: Path, as_json: bool) -> None:
    begin = time.perf_counter()
    found = TASKS[task](folder, lambda line: print(f"{task}: {line}", file=sys.stderr, flush=True))
    seconds = time.perf_counter() - begin
    figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    line = json.dumps({"task": task, **found, "seconds": seconds}) if as_json else f"{task}: {figures}; {seconds:.0f} s"
    print(line, flush=True)


def main() -> int:
    """Run the tasks that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (all if none is named)")
    parser.add_argument("--data", type=Path, default=os.environ.get("JAXNETS_DATA"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each task")
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data or JAXNETS_DATA must name the folder of the data")
    if unknown := [task for task in options.tasks if task not in TASKS]:
        parser.error(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}")
    with tempfile.TemporaryDirectory() as programs:  # nets that decide together have the same
        jax.config.update("jax_compilation_cache_dir", programs)
        for task in options.tasks or TASKS:
            _run(task, options.data, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
