"""Training: what a step does, that nothing of a run depends on how it was cut or interrupted, and what stops it."""

import contextlib
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import programs
from helpers import assert_close, assert_same, tolerance
from jaxnets import data, dense, rnn, textconv, train
from jaxnets.train import _checkpoint, _plan, _steps

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
NET = dense.init(KEY, sizes=(3, 5, 2))
ADAM = optax.adam(0.05)
SOME = (X[:20], Y[:20])
WATCHED = {"pieces": train.Pieces(2), "validation": train.Validation(SOME, patience=9)}


@pytest.fixture(autouse=True)
def ordinary_settings():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def programs_are_kept(monkeypatch):
    programs.keep(monkeypatch)


def fit(**options):
    given = {"epochs": 3, "batch": 8, "seed": 1} | options
    return train.fit(dense.loss, NET, given.pop("data", (X, Y)), given.pop("optimizer", ADAM), **given)


@cache
def undisturbed(epochs):
    """A run that nothing interrupts."""
    return fit(epochs=epochs)


@cache
def undisturbed_and_watched():
    return fit(**WATCHED)


def test_a_step_is_the_optimizers():
    """One batch that is everything: the order does not matter then."""

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(dense.loss)(params, X, Y)
        updates, state = ADAM.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    fitted = fit(epochs=2, batch=50)
    params, state = NET, ADAM.init(NET)
    for entry in fitted.history:
        value, params, state = step(params, state)
        assert math.isclose(value, entry["loss"], rel_tol=1e-5)
    assert_close(fitted.params, params, 1e-4)
    assert int(fitted.state.step) == 2


def test_every_example_has_its_turn_and_no_epoch_is_like_another():
    """Each example adds its own power of two to the only parameter: twelve of them make 4095 in one way only."""

    def loss(total, number):
        return -jnp.sum(total * number)  # whose gradient is the sum of the batch

    for epochs in (1, 2):
        numbers = 2.0 ** np.arange(12, dtype=np.float32)
        fitted = train.fit(loss, jnp.zeros(()), (numbers,), optax.sgd(1.0), epochs=epochs, batch=3)
        assert float(fitted.params) == 4095 * epochs
    orders = [_plan.Plan([12], [3], [4], [4]).pieces([{}], KEY, epoch, 0) for epoch in (0, 1)]
    first, second = (next(order).picked for order in orders)
    assert sorted(first.ravel()) == list(range(12))
    assert (first != second).any()


def test_the_same_seed_gives_the_same_bits():
    """From a program that is compiled again, too."""
    whole = fit()
    assert_same(fit().params, whole.params)
    programs.forget()
    assert_same(fit().params, whole.params)
    assert not np.array_equal(whole.params.W[0], fit(seed=2).params.W[0])


PIECES = (train.Pieces(at_once=1), train.Pieces(at_once=2), train.Pieces(budget=300))


@pytest.mark.parametrize("options", [{"pieces": p} for p in PIECES] + [{"data": {"y": Y, "x": X}}])
def test_how_it_is_cut_changes_nothing(options):
    """Pieces of an epoch, data that go to the device by blocks, a dict in place of a tuple."""
    assert_same(fit(**options).params, undisturbed(3).params)


def test_a_rest_is_not_compiled_anew():
    """Six steps by pieces of four: the loss is read by autodiff once for both lengths."""
    read = []

    def loss(params, x, y):
        read.append(x)
        return dense.loss(params, x, y)

    train.fit(loss, NET, (X, Y), ADAM, epochs=2, batch=8, pieces=train.Pieces(4))
    assert len(read) == 1


def test_the_callers_parameters_stay():
    before = jax.tree.map(np.array, NET)
    fit()
    assert_same(jax.tree.map(np.asarray, NET), before)


def test_buckets_take_turns():
    """Of different shapes; each with steps of its own."""
    long = {"x": RNG.integers(0, 7, (10, 9)), "y": Y[:10]}
    short = {"x": RNG.integers(0, 7, (7, 4)), "y": Y[:7]}
    net = textconv.init(KEY, embed=3, widths=(2,), filters=4, outputs=2, vocab=7)
    run = partial(train.fit, textconv.loss, net, [long, short], ADAM, batch=3, seed=1, epochs=3)
    fitted = run()
    assert int(fitted.state.step) == 3 * (3 + 2)
    for pieces in (*PIECES, train.Pieces(budget=100)):
        assert_same(fitted.params, run(pieces=pieces).params)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


def test_from_words_to_a_net(tmp_path):
    """As the README says: buckets go to `fit` as they are, for training, validation and scores; stopped and gone on
    with in pieces of another size, it ends with the same bits."""
    sentences = ["a b", "b c d", "a", "c c c c", "d", "b a", "d c d", "a b a b"]
    vocabulary = data.Vocabulary.of(s.split() for s in sentences)
    found = data.buckets([vocabulary.numbers(s.split()) for s in sentences], np.arange(8) % 2, count=3)
    net = textconv.init(KEY, embed=3, widths=(2,), filters=4, outputs=2, vocab=vocabulary.size)
    run = partial(train.fit, partial(textconv.loss, drop=0.2), net, found, ADAM, epochs=2, batch=2)
    options = {"validation": train.Validation(found, textconv.predict, "accuracy"), "rows": {"E": "x"}}
    whole = run(**options)
    for stop in (1, 3):
        visits = iter(range(1, 99))
        in_between = {"pieces": train.Pieces(1), "watch": lambda _, v=visits, s=stop: next(v) == s}
        run(**options, out=tmp_path / str(stop), **in_between)
        assert_same(run(**options, out=tmp_path / str(stop)).params, whole.params)
    right = train.scores(textconv.loss, textconv.predict, whole.params, found)["accuracy"]
    assert right == max(entry["validation_accuracy"] for entry in whole.history)


@pytest.mark.parametrize("optimizer", [optax.contrib.prodigy(), optax.contrib.reduce_on_plateau(), optax.lion(0.01)])
def test_optimizers_of_other_kinds(optimizer):
    assert fit(optimizer=optimizer).history


# Rows of a table.

TEXT = textconv.init(KEY, embed=3, widths=(2,), filters=4, outputs=2, vocab=30)
TOKENS = RNG.integers(1, 20, (12, 6))  # rows 20 to 29, and 0, are never read


def fit_rows(optimizer, rows, **options):
    given = {"epochs": 3, "batch": 4, "seed": 3} | options
    return train.fit(textconv.loss, TEXT, (TOKENS, np.arange(12) % 2), optimizer, rows=rows, **given)


@pytest.mark.parametrize("batch", [4, 6])  # of fewer tokens than the table has rows, and of more
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))])
def test_rows_alone_are_the_same_descent(optimizer, batch):
    rows, whole = (fit_rows(optimizer, rows, batch=batch).params for rows in ({"E": "x"}, None))
    assert_close(rows, whole, tolerance(jnp.float32))


@pytest.mark.parametrize("rows", [3, 20, 100])
def test_the_rows_that_tokens_name(rows):
    """Each once, whatever their number; what is no row has a number beyond them."""
    tokens = np.array([[2, 0, 2, -1], [rows, 1, 2, 0]])
    named, numbers = map(np.asarray, jax.jit(_steps._rows_read)(tokens, np.zeros((rows, 2))))
    possible = (tokens >= 0) & (tokens < rows)
    np.testing.assert_array_equal(numbers < len(named), possible)
    np.testing.assert_array_equal(named[numbers[possible]], tokens[possible])
    real = named[named < rows]
    assert len(np.unique(real)) == len(real) < rows + 1


def test_rows_alone_are_the_same_adam_where_every_row_wins():
    """With a filter a coordinate, whatever its sign, each word of a text of one window has gradient."""
    tokens = np.stack([RNG.permutation(6) for _ in range(12)])
    net = textconv.init(KEY, embed=3, widths=(6,), filters=4, outputs=2, vocab=6)
    run = partial(train.fit, textconv.loss, net, (tokens, np.arange(12) % 2), ADAM, epochs=3, batch=4)
    whole, rows = run(), run(rows={"E": "x"})
    assert_close(rows.params, whole.params, 1e-4)
    assert_close(rows.state.optimizer, whole.state.optimizer, 1e-4)


def test_rows_that_are_not_read_or_do_not_win_rest():
    """Their moments, too."""
    after = fit_rows(optax.adamw(0.1), {"E": "x"})
    unread, before = np.r_[0, 20:30], np.asarray(TEXT.E)
    np.testing.assert_array_equal(np.asarray(after.params.E)[unread], before[unread])
    assert not np.asarray(after.state.optimizer[0].mu.E)[unread].any()
    one = train.fit(textconv.loss, TEXT, (TOKENS[:1], [1]), ADAM, epochs=1, rows={"E": "x"})
    grad = jax.jit(jax.grad(textconv.loss))(TEXT, TOKENS[:1], np.array([1])).E
    won = np.asarray(grad).any(1)
    np.testing.assert_array_equal((np.asarray(one.params.E) != before).any(1), won)


@pytest.mark.parametrize("texts", [4, 6])  # of fewer tokens than the table has rows, and of more
def test_an_impossible_token_stays_one(texts):
    """And is refused by name, though it is met in the middle of a compiled loop."""
    with pytest.raises(ValueError, match=r"textconv.loss: x must be within 0 … 29 \(a row of params.E\); got 30"):
        train.fit(textconv.loss, TEXT, (np.full((texts, 6), 30), np.arange(texts) % 2), ADAM, epochs=1, rows={"E": "x"})


NEED_WHOLE_TABLES = {
    "multi_steps": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "apply_every": optax.chain(optax.sgd(0.1), optax.apply_every(2)),
    "muon": optax.contrib.muon(0.1),
    "prodigy": optax.contrib.prodigy(),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(0.1)),
    "adaptive_grad_clip": optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
    "lamb that warms up": optax.lamb(optax.linear_schedule(0.0, 1e-3, 100)),
} | {name: getattr(optax, name)(0.1) for name in ("lamb", "lars", "fromage")}
GO_BY_ROWS = {
    name: getattr(optax, name)(0.1)
    for name in ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "nadam", "adamax")
} | {
    "momentum": optax.sgd(0.1, 0.9, nesterov=True),
    "clip": optax.chain(optax.clip_by_global_norm(0.1), ADAM),
    "small steps": optax.adam(1e-8),
    "warms up": optax.adamw(optax.linear_schedule(0.0, 1e-3, 10_000)),
}


@pytest.mark.parametrize("name", NEED_WHOLE_TABLES)
def test_rows_ask_for_an_optimizer_that_goes_row_by_row(name):
    with pytest.raises(ValueError, match="fit: rows: "):
        fit_rows(NEED_WHOLE_TABLES[name], {"E": "x"})


@pytest.mark.parametrize("name", GO_BY_ROWS)
def test_optimizers_that_go_row_by_row_are_known(name):
    assert _steps.goes_row_by_row(GO_BY_ROWS[name], TEXT, {"E"})


def test_rows_of_a_masked_optimizer():
    masked = optax.masked(ADAM, jax.tree.map(lambda _: True, TEXT))
    assert_same(fit_rows(masked, {"E": "x"}).params, fit_rows(ADAM, {"E": "x"}).params)


# Dropout.


def test_dropout_is_another_each_step_and_the_same_each_run():
    net = textconv.init(KEY, embed=3, widths=(2,), filters=40, outputs=2)
    x, y = RNG.normal(size=(6, 5, 3)).astype(np.float32), np.arange(6) % 2
    loss = partial(textconv.loss, drop=0.5)
    run = partial(train.fit, loss, net, (x, y), optax.sgd(0.0), epochs=4, batch=6)
    losses = [entry["loss"] for entry in run().history]
    assert len(set(losses)) == 4
    assert losses == [entry["loss"] for entry in run().history]
    with_drop, without = (jax.jit(f)(net, x, y) for f in (loss, textconv.loss))
    assert with_drop == without  # without a key nothing is dropped


def test_dropout_keeps_the_mean():
    """Of the logits, which are linear in the features."""
    net = textconv.init(KEY, embed=3, widths=(2,), filters=40)
    x = RNG.normal(size=(1, 5, 3)).astype(np.float32)

    @jax.jit
    def with_and_without(keys):
        z = jax.vmap(lambda key: textconv._logits(net, jnp.asarray(x), None, 0.3, key))(keys)
        return z, textconv.forward(net, x)[0]

    z, whole = map(np.asarray, with_and_without(jax.random.split(KEY, 4000)))
    assert abs(z.mean() - whole) < 5 * z.std() / math.sqrt(len(z))


# Validation, early stopping.


def test_the_best_epoch_is_kept_and_the_run_stops():
    held_out = (X[:20], 1 - Y[:20])  # the opposite is asked, so that it gets worse from the first epoch on
    fitted = fit(epochs=50, validation=train.Validation(held_out, dense.predict, patience=2))
    assert len(fitted.history) == 3
    assert_same(fitted.params, fit(epochs=1).params)
    last = fitted.history[-1]
    lost = jax.jit(dense.loss)(fitted.state.params, *held_out)
    assert math.isclose(last["validation_loss"], lost, rel_tol=1e-5)
    assert 0 <= last["validation_accuracy"] <= 0.5


def test_further_data_are_scored_without_a_say():
    beside = fit(validation=train.Validation(SOME, dense.predict, also={"training": (X, Y)}))
    assert_same(beside.params, fit(validation=SOME).params)
    found = train.scores(dense.loss, dense.predict, beside.state.params, {"x": X, "y": Y})
    assert {name: beside.history[-1][f"training_{name}"] for name in found} == found


def test_scores():
    net = dense.init(KEY, sizes=(3, 1))
    data = {"x": X, "y": Y}
    found = train.scores(dense.loss, dense.predict, net, data, batch=7)
    p = np.asarray(jax.jit(dense.predict)(net, X))
    assert math.isclose(found["loss"], jax.jit(dense.loss)(net, X, Y), rel_tol=1e-5)
    assert math.isclose(found["accuracy"], ((p > 0.5) == Y).mean())
    wins = [(a > b) + (a == b) / 2 for a in p[Y == 1] for b in p[Y == 0]]
    assert math.isclose(found["auc"], np.mean(wins), rel_tol=1e-6)
    net = rnn.init(KEY, 3, 4, 2)
    x, y, lengths = RNG.normal(size=(5, 6, 3)).astype(np.float32), RNG.integers(0, 2, (5, 6)), np.array([6, 0, 3, 1, 6])
    predict = partial(rnn.predict, every_step=True)
    found = train.scores(rnn.loss, predict, net, {"x": x, "y": y, "lengths": lengths})
    right = np.asarray(jax.jit(predict)(net, x)).argmax(-1) == y
    assert math.isclose(found["accuracy"], np.concatenate([r[:n] for r, n in zip(right, lengths, strict=True)]).mean())


def test_scores_by_weights_whatever_the_batches_are():
    """Against all at once, repeated as often as the weights say."""
    rng = np.random.default_rng(0)
    net, x, y = dense.init(jax.random.key(0), (3, 4, 1)), rng.normal(size=(23, 3)).astype(np.float32), rng.random(23)
    weights, y = rng.integers(0, 4, 23), y.round().astype(np.float32)
    whole = train.scores(dense.loss, dense.predict, net, (np.repeat(x, weights, 0), np.repeat(y, weights)))
    for batch in (1, 5, 23):
        found = train.scores(dense.loss, dense.predict, net, {"x": x, "y": y, "weights": weights}, batch)
        assert found == pytest.approx(whole, rel=1e-5)
    hidden = train.scores(dense.loss, dense.predict, net, {"x": x, "y": y, "weights": weights > 1})
    assert hidden == pytest.approx(
        train.scores(dense.loss, dense.predict, net, (x[weights > 1], y[weights > 1])), rel=1e-5
    )


def test_scores_of_steps_whatever_the_batches_are():
    rng, net = np.random.default_rng(0), rnn.init(jax.random.key(0), 2, 3, 4)
    data = {"x": rng.normal(size=(7, 5, 2)).astype(np.float32), "y": rng.integers(0, 4, (7, 5))}
    data |= {"lengths": np.array([5, 0, 1, 2, 5, 3, 0]), "weights": rng.random((7, 5)).astype(np.float32)}
    predict = partial(rnn.predict, every_step=True)
    one, all_ = (train.scores(rnn.loss, predict, net, data, batch) for batch in (1, 7))
    assert one == pytest.approx(all_, rel=1e-5)
    assert all_["loss"] == pytest.approx(float(rnn.loss(net, **data)), rel=1e-5)
    valid = np.arange(5) < data["lengths"][:, None]
    right = np.asarray(predict(net, data["x"], data["lengths"])).argmax(-1) == data["y"]
    by = np.where(valid, data["weights"], 0)
    assert all_["accuracy"] == pytest.approx((right * by).sum() / by.sum(), rel=1e-6)


# Interruptions, checkpoints.


@pytest.mark.parametrize("stop", range(1, 10))
def test_stopped_and_gone_on_with(stop, tmp_path):
    """By steps, within an epoch and at its end: the same bits, the same history but for the clock."""
    whole = undisturbed_and_watched()
    visits = iter(range(1, 100))
    part = fit(out=tmp_path, watch=lambda _: next(visits) == stop, **WATCHED)
    assert int(part.state.step) < int(whole.state.step) or stop == 9
    fitted = fit(out=tmp_path, **WATCHED)
    assert_same(fitted.params, whole.params)
    assert_same(fitted.state._replace(key=None), whole.state._replace(key=None))
    clockless = [[{k: v for k, v in e.items() if k != "seconds"} for e in f.history] for f in (fitted, whole)]
    assert clockless[0] == clockless[1]
    assert len(list(tmp_path.iterdir())) == _checkpoint.KEPT


def test_killed_between_any_two_operations_on_files(tmp_path, monkeypatch):
    """Wherever the process ends while it saves, what is on the disk is whole, and the run ends with the same bits."""

    class Killed(BaseException):
        pass

    whole = undisturbed(4)
    for moment in range(100):
        out = tmp_path / str(moment)
        calls = iter(range(1000))

        def dies(f, moment=moment, calls=calls):
            def call(*args, **options):
                if next(calls) >= moment:  # and whoever is gone does not tidy up either
                    raise Killed
                return f(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((_checkpoint.os, "fsync"), (_checkpoint.Path, "replace"), (_checkpoint.Path, "unlink")):
                patch.setattr(owner, name, dies(getattr(owner, name)))
            with contextlib.suppress(Killed):
                fit(epochs=4, out=out)
        assert_same(fit(epochs=4, out=out).params, whole.params)
        if next(calls) < moment:  # it was not killed any more
            break
    assert 10 < moment < 99


KILLER = """
import os, pathlib, random, signal, sys, time, warnings
import jax, numpy as np, optax
from jaxnets import dense, train
from jaxnets.train import _checkpoint, _run

warnings.simplefilter("ignore")  # of a fork: this process computes nothing, and has no threads that could be missed
folder = pathlib.Path(sys.argv[1])
jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))  # so that a child is soon where it counts
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
_run.SAVE_EVERY = 0.0  # after each piece, that there be much to interrupt


def begin(name):
    pid = os.fork()
    if pid:
        return pid
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    net = dense.init(jax.random.key(0), sizes=(3, 5, 2))
    data, out = (x, (x[:, 0] > 0).astype(np.int32)), folder / name
    fitted = train.fit(dense.loss, net, data, optax.adam(0.05), epochs=30, batch=8, pieces=train.Pieces(10), out=out)
    (folder / f"{name}.bits").write_bytes(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(fitted.params)))
    os._exit(0)


for name in ("whole", "again"):  # the second time nothing is compiled
    begun = time.perf_counter()
    os.waitpid(begin(name), 0)
    seconds = time.perf_counter() - begun
bits = (folder / "whole.bits").read_bytes()
assert (folder / "again.bits").read_bytes() == bits

random.seed(1)
kills, interrupted, run = 0, set(), 0
while kills < 50 or not (folder / f"run-{run}.bits").exists():
    if (folder / f"run-{run}.bits").exists():
        run += 1
    pid = begin(f"run-{run}")
    if kills < 50:
        time.sleep(random.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        kills += 1
        for path in (folder / f"run-{run}").glob("step-*"):
            interrupted.add(_checkpoint._read(path)[1]["step"])  # what is there is whole
    elif (folder / f"run-{run}.bits").read_bytes() != bits:
        sys.exit(f"run {run} ended with other bits")
print(kills, run + 1, len(interrupted))
"""


def test_killed_from_outside_at_fifty_moments(tmp_path):
    """The process is gone without a word, again and again; each run ends with the same bits all the same."""
    found = subprocess.run(
        [sys.executable, "-c", KILLER, tmp_path], capture_output=True, text=True, timeout=600, check=False
    )
    assert found.returncode == 0, found.stderr
    kills, runs, interrupted = map(int, found.stdout.split())
    assert kills == 50
    assert runs >= 1
    assert interrupted >= 10  # different places


def test_more_epochs_later(tmp_path):
    fit(epochs=2, out=tmp_path)
    assert_same(fit(epochs=5, out=tmp_path).params, undisturbed(5).params)


def test_another_run_is_not_overwritten(tmp_path):
    fit(out=tmp_path)
    with pytest.raises(ValueError, match=r"out holds another run .*, which differs in batch: 8 there, 4 here; "):
        fit(out=tmp_path, batch=4)
    with pytest.raises(ValueError, match=r"state\.params\.W\.0"):
        train.fit(dense.loss, dense.init(KEY, sizes=(3, 6, 2)), (X, Y), ADAM, epochs=1, batch=8, seed=1, out=tmp_path)


def test_what_another_run_differs_in_is_named(tmp_path):
    """A return of the old run in silence would be the worst answer."""
    fit(out=tmp_path, **WATCHED)
    others = {
        r"the loss or the optimizer \(JAX .*\)\. Give another folder": {"optimizer": optax.adam(0.011)},
        r"differs in the data\. Give": {"data": (X + 1e-3, Y)},
        r"differs in the validation set\. Give": {"validation": (X[:9], 1 - Y[:9])},
        r"differs in monitor: 'loss' there, 'accuracy' here": {
            "validation": train.Validation(SOME, dense.predict, "accuracy")
        },
    }
    for told, changed in others.items():
        with pytest.raises(ValueError, match=told):
            fit(out=tmp_path, **WATCHED | changed)
    assert_same(fit(out=tmp_path, **WATCHED).params, undisturbed_and_watched().params)


def test_a_loss_that_calls_back_goes_on_all_the_same(tmp_path):
    """Its program has another address in it each time."""

    def loss(params, x, y):
        jax.debug.callback(lambda: None)
        return dense.loss(params, x, y)

    for epochs in (1, 2):
        fitted = train.fit(loss, NET, (X, Y), ADAM, epochs=epochs, batch=8, seed=1, out=tmp_path)
    assert_same(fitted.params, undisturbed(2).params)


def damaged(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not one at all":
        path.write_bytes(b"hello " * 100)
    else:
        at = int(how * (len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])


@pytest.mark.parametrize("how", ["truncated", "empty", "not one at all", 0.0, 0.05, 0.3, 0.6, 0.9, 1.0])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(how, tmp_path):
    fit(epochs=3, out=tmp_path)
    older, newest = sorted(tmp_path.iterdir())
    damaged(newest, how)
    with pytest.warns(UserWarning, match=f"{newest.name}.*the checkpoint before it is tried"):
        assert_same(fit(epochs=4, out=tmp_path).params, undisturbed(4).params)
    for path in tmp_path.iterdir():
        damaged(path, how)
    with (
        pytest.warns(UserWarning, match="the checkpoint before it is tried"),
        pytest.raises(ValueError, match="each of the 2 checkpoints is damaged"),
    ):
        fit(out=tmp_path)
    assert older.name < newest.name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int8, jnp.bool_])
def test_a_checkpoint_holds_any_dtype(dtype, tmp_path):
    tree = {"a": jnp.arange(6).reshape(2, 3).astype(dtype), "key": jax.random.key(3), "none": None, "0d": jnp.ones(())}
    train.save(tmp_path, 7, tree, {"text": "ä", "inf": math.inf})
    found, record, path = train.load(tmp_path, jax.tree.map(jnp.zeros_like, tree) | {"key": jax.random.key(0)})
    assert record == {"text": "ä", "inf": math.inf}
    assert path.name == "step-000000007.safetensors"
    assert jnp.array_equal(jax.random.key_data(found.pop("key")), jax.random.key_data(tree.pop("key")))
    assert_same(found, tree)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    fit(epochs=1, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fit(epochs=2, out=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(fit(epochs=2, out=tmp_path).params, undisturbed(2).params)


def test_no_file_can_run_code(tmp_path):
    """A checkpoint is a safetensors file: a header of JSON, and numbers."""
    fit(epochs=1, out=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["record"])["step"] == 6


def test_of_smaller_steps_the_last_stays_and_larger_ones_are_left_alone(tmp_path):
    """By number, not by text: ten digits come after nine."""
    for step in (10, 20, 1, 15, 999_999_999, 10**9):
        assert train.save(tmp_path, step, {"a": step * jnp.ones(2)}, {}).exists()
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{n}.safetensors" for n in (999_999_999, 10**9)}
    (tmp_path / "step-by-step.safetensors").write_text("a file of somebody else's")
    assert train.load(tmp_path, {"a": jnp.ones(2)})[2].name == "step-1000000000.safetensors"
    train.save(tmp_path, 3, {"a": jnp.ones(2)}, {})
    assert len(list(tmp_path.iterdir())) == 4


def test_a_leaf_comes_back_as_it_was(tmp_path):
    """With 64 bits off, too: numbers of Python's and NumPy's, arrays in another byte order, names that look alike."""
    tree = {
        "count": 2**40,
        "rate": 0.1,
        "yes": True,
        "wide": np.array([1e300]),
        "big": np.array([1, 2], ">f4"),
        "number": np.float64(0.1),
        "a.b": np.ones(1),
        "a": {"b": np.zeros(1)},
        "__metadata__": np.arange(3),
    }
    with jax.enable_x64(False):
        train.save(tmp_path, 1, tree, {})
        found = train.load(tmp_path, tree)[0]
    for name, leaf in tree.items():
        assert jax.tree.map(type, found[name]) == jax.tree.map(type, leaf)
        jax.tree.map(np.testing.assert_array_equal, found[name], leaf)


def test_what_would_be_narrowed_is_refused(tmp_path):
    with jax.enable_x64(True):
        wide = {"a": jnp.ones(2, jnp.float64)}
        train.save(tmp_path, 1, wide, {})
    with jax.enable_x64(False), pytest.raises(ValueError, match="a is float64, which JAX would narrow here: switch 64"):
        train.load(tmp_path, wide)
    with pytest.raises(TypeError, match=r"train\.save: a must be of real numbers; got <U1"):
        train.save(tmp_path, 2, {"a": np.array(["x"])}, {})


def test_a_turned_array_is_kept_as_it_is(tmp_path):
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4).T
    train.save(tmp_path, 1, {"a": a}, {})
    np.testing.assert_array_equal(train.load(tmp_path, {"a": jnp.zeros((4, 3))})[0]["a"], a)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_must_be_new(tmp_path, monkeypatch, links):
    """Also on file systems that have no links."""

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refused)
    _checkpoint.write_whole(tmp_path / "a", b"first", only_new=True)
    with pytest.raises(FileExistsError):
        _checkpoint.write_whole(tmp_path / "a", b"second", only_new=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_a_folder_that_is_taken_away_is_not_made_anew(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="run was deleted during the run"):
        fit(out=out, watch=lambda progress: shutil.rmtree(out))
    assert not out.exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    """The second is refused while the first goes on, and not after it, however it ended."""
    refused = []

    def another(progress):
        with pytest.raises(
            ValueError, match=r"fit: out \(.*\) is in use by another run; wait until it ends, or stop it"
        ):
            fit(out=tmp_path)
        refused.append(progress)
        return True

    fit(out=tmp_path, watch=another)
    assert len(refused) == 1
    with pytest.raises(ZeroDivisionError):
        fit(out=tmp_path, watch=lambda progress: 1 / 0)
    assert_same(fit(out=tmp_path).params, undisturbed(3).params)


def test_stopped_before_an_epoch_is_done_there_is_no_best_one():
    fitted = fit(**WATCHED, watch=lambda progress: True)
    assert int(fitted.state.step) == 2
    assert not fitted.history
    assert_same(fitted.params, fitted.state.params)


# What stops a run.


def test_broken_parameters_are_no_good_checkpoint(tmp_path):
    """A step's loss is that of the parameters before it."""
    with pytest.raises(train.Diverged, match="the parameters after step 1 are not all finite"):
        train.fit(
            lambda a, x: jnp.sqrt(a) + 0 * x.sum(),
            jnp.zeros(()),
            (X,),
            optax.sgd(1.0),
            epochs=3,
            batch=50,
            out=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    """At the step it happens; the last good checkpoint is named, and still good."""

    def loss(p, x, y):
        return jnp.where(p["steps"] > 7.5, jnp.nan, 1.0) * dense.loss(p["net"], x, y) - p["steps"]

    start = {"net": NET, "steps": jnp.zeros(())}
    with pytest.raises(
        train.Diverged, match=r"the loss of step 9 is nan\. The last good checkpoint is .*step-000000006"
    ):
        train.fit(loss, start, (X, Y), optax.sgd(1.0), epochs=3, batch=8, out=tmp_path)
    found = train.load(
        tmp_path, {"state": train.TrainState(start, optax.sgd(1.0).init(start), jnp.int32(0), KEY), "best": None}
    )
    assert int(found[0]["state"].step) == 6


BAD = {
    "epochs": ({"epochs": 0}, ValueError, "fit: epochs must be at least 1; got 0"),
    "batch": ({"batch": 2.5}, TypeError, "fit: batch must be an integer"),
    "patience": ({"validation": train.Validation(SOME, patience=0)}, ValueError, "fit: patience must be at least 1; got 0"),
    "seed": ({"seed": 1.5}, TypeError, "fit: seed must be an integer"),
    "at_once": ({"pieces": train.Pieces(at_once=0)}, ValueError, "fit: at_once must be at least 1; got 0"),
    "budget": ({"pieces": train.Pieces(budget=0.5)}, TypeError, "fit: budget must be an integer"),
    "pieces": ({"pieces": 3}, TypeError, r"fit: pieces must be a train.Pieces, as .* is; got int"),
    "optimizer": ({"optimizer": 0.1}, TypeError, "fit: optimizer must be one of optax, as .*; got float"),
    "no targets": ({"data": (X,)}, TypeError, "fit: data must be data for all that the loss needs \\(x, y\\); got none for 'y'"),
    "what it does not take": ({"data": {"x": X, "y": Y, "z": Y}}, TypeError, "fit: data must be a dict of arguments .*; got 'z' too"),
    "not a bucket": ({"data": [X, Y]}, TypeError, r"fit: data\[0\] must be a tuple .*; got a ndarray\. A list is a list of buckets"),
    "monitor": ({"validation": train.Validation(SOME, monitor="f1")}, ValueError, "fit: monitor must be one of 'loss', 'accuracy', 'auc'; got 'f1'"),
    "sizes": ({"data": (X, Y[:9])}, ValueError, "fit: data must be arrays of one number of examples, at least one; got {'x': 50, 'y': 9}"),
    "nothing": ({"data": (X[:0], Y[:0])}, ValueError, "{'x': 0, 'y': 0}"),
    "no buckets": ({"data": []}, ValueError, "fit: data must be a list of at least one bucket"),
    "an array": ({"data": X}, TypeError, "fit: data must be a tuple of at most 2 \\(x, y\\), or a dict"),
    "rows": ({"rows": {"E": "x"}}, ValueError, "fit: rows must be a dict from arrays of params \\(a NamedTuple\\); got 'E'"),
    "rows of floats": ({"rows": {"W": "x"}}, ValueError, "fit: rows must be a dict to arguments of whole numbers"),
    "accuracy": ({"validation": train.Validation(SOME, monitor="accuracy")}, ValueError, "fit: predict must be given where monitor is 'accuracy'"),
    "one class": ({"validation": train.Validation(SOME, dense.predict, "auc")}, ValueError, "fit: monitor must be one of the scores"),
    "bad validation": ({"validation": (X, np.where(np.arange(50) == 31, 7, Y))}, ValueError, "fit: example 31 of validation, on its own: dense.loss: y must be within 0 … 1 .*; got 7"),
    "what predict needs": ({"validation": train.Validation(SOME, lambda p, x, extra: x)}, TypeError, "fit: validation must be data for all that predict needs .x, extra.; got none for 'extra'"),
    "what predict needs of others": ({"data": {"x": X, "y": Y}, "validation": train.Validation(SOME, lambda p, h: h)}, TypeError, r"fit: validation must be data for all that predict needs .h.; got none for 'h'"),
    "a name that is taken": ({"validation": train.Validation(SOME, also={"validation": SOME})}, ValueError, "fit: also must be names other than that of the validation set; got 'validation'"),
    "lbfgs": ({"optimizer": optax.lbfgs()}, TypeError, "fit: optimizer must be one that asks for no more than gradients, parameters and the loss; got one that needs more"),
    "words": ({"data": (np.array(["a", "b"]), Y[:2])}, TypeError, r"fit: data\['x'\] must be an array of numbers; got an array of str"),
    "objects": ({"data": (X[:2], np.array([None, {}]))}, TypeError, r"fit: data\['y'\] must be an array of numbers; got an array of object"),
    "a bad label in others": ({"validation": train.Validation(SOME, also={"more": [SOME, (X, np.where(np.arange(50) == 7, 3, Y))]})}, ValueError, r"fit: example 7 of more\[1\], on its own: dense.loss: y must be within 0 … 1"),
    "also": ({"validation": train.Validation(SOME, also=SOME)}, TypeError, "fit: also must be a dict of data by name, .*; got tuple"),
    "a mask": ({"data": (np.ma.masked_array(X), Y)}, TypeError, r"fit: data\['x'\] must be an array without a mask"),
    "more than 32 bits": ({"data": (X, np.where(Y, 2**32, Y.astype(np.int64)))}, ValueError, r"fit: data\['y'\] must be within 32 bits; got 4294967296"),
    "beyond float32": ({"data": (X.astype(float) * 1e300, Y)}, ValueError, r"fit: data\['x'\] must be within 32 bits"),
    "another byte order": ({"data": (X.astype(">f4"), Y)}, TypeError, r"fit: data\['x'\] must be in the byte order of this machine"),
    "weights below 0": ({"data": {"x": X, "y": Y, "weights": X[:, 0]}}, ValueError, r"fit: data\['weights'\] must be at least 0; got negative ones"),
    "a bad label": ({"data": (X, np.where(np.arange(50) == 44, 2, Y)), "epochs": 9}, ValueError, "fit: example 44 of data, on its own: dense.loss: y must be within 0 … 1 .*; got 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    options, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        fit(**options)


@pytest.mark.parametrize(
    ("params", "came"),
    [
        ({"net": NET, "activation": jnp.tanh}, r"got \w+ at \['activation'\]\. Part them from the rest, as equinox"),
        ({"net": NET, "key": KEY}, r"at \['key'\]"),
        ({"net": NET, "steps": 3}, r"got int at \['steps'\]"),
    ],
)
def test_parameters_are_floating_arrays(params, came):
    with pytest.raises(TypeError, match=f"fit: params must be a pytree of floating arrays; .*{came}"):
        train.fit(lambda p, x, y: dense.loss(p["net"], x, y), params, (X, Y), ADAM, epochs=1)


def test_optimizers_for_other_parameters():
    """One that is to be given a container of its own, and one that fails at once."""
    with pytest.raises(TypeError, match=r"fit: optimizer must be one that asks for no more .*no attribute 'fast'"):
        fit(optimizer=optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(TypeError, match=r"fit: optimizer must be one that can begin from params; got one that fails"):
        fit(optimizer=optax.GradientTransformation(lambda p: p["a"], optax.sgd(0.1).update))


def test_what_cannot_be_saved_is_named(tmp_path):
    for step, kind in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(kind, match=r"train\.save: step must be"):
            train.save(tmp_path, step, {}, {})
    with pytest.raises(TypeError, match=r"train\.save: record must be what JSON can hold .*float32"):
        train.save(tmp_path, 1, {}, {"loss": np.float32(1)})
    with pytest.raises(TypeError, match=r"train\.save: a must be of real numbers; got complex64"):
        train.save(tmp_path, 1, {"a": np.ones(2, np.complex64)}, {})
    with pytest.raises(TypeError, match=r"train\.save: a must be an array without a mask"):
        train.save(tmp_path, 1, {"a": np.ma.ones(2)}, {})
    assert not list(tmp_path.iterdir())


def test_what_watch_is_told():
    seen = []
    fit(epochs=2, pieces=train.Pieces(3), watch=seen.append)
    assert [(p.epoch, p.epochs, p.step, p.steps, p.entry is None) for p in seen] == [
        (1, 2, 3, 6, True), (1, 2, 6, 6, False), (2, 2, 9, 6, True), (2, 2, 12, 6, False),
    ]  # fmt: skip
