"""A run of several processes on this machine: what one comes to; and one that dies, never comes, or is another."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers import tolerance
from jaxnets import rnn, train
from jaxnets.cli import main
from test_mesh import NETS, trained

HERE = Path(__file__).parent
CHARACTERS = "the quick brown fox jumps over the lazy dog. " * 60
BOUND = 60  # seconds for a fault to be told
START = 60  # seconds that a busy machine may take to start what then fails


def address():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{trial.getsockname()[1]}"


STARTED = []


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def start(*arguments, cwd, **env):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *map(str, arguments)]
    STARTED.append(subprocess.Popen(command, cwd=cwd, env={**os.environ, **env}, text=True, **pipes))
    return STARTED[-1]


def jaxnets(where, processes, process, *arguments, cwd, **env):
    between = ("--coordinator", where, "--processes", processes, "--process", process) if processes > 1 else ()
    return start("-m", "jaxnets", *arguments, *between, cwd=cwd, **env)


def ended(process, within=300):
    out, err = process.communicate(timeout=within)
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "long.txt").write_text(CHARACTERS)
    return tmp_path


TRAIN = ("train", "rnn", "--data", "characters:long.txt", "--hidden", 8, "--batch", 6, "--out", "run")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_net_as_in_one_process(processes, tmp_path):
    where = address()
    all_of_them = [start(HERE / "of_processes.py", where, processes, i, tmp_path, cwd=HERE) for i in range(processes)]
    for process in all_of_them:
        code, _, err = ended(process)
        assert code == 0, err
    first, *others = (dict(np.load(tmp_path / f"{i}.npz")) for i in range(processes))
    if processes > 1:
        assert "differ in the options" in str(first.pop("other options"))
        assert "differ in their parameters after epoch 1" in str(first.pop("other rate"))
        assert "KeyError" in str(others[-1].pop("one fails"))
        assert f"process {processes - 1} of this run has failed" in str(first.pop("one fails"))
    for other in others:
        for name, a in first.items():
            np.testing.assert_array_equal(other[name], a, name)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for i, name in enumerate(NETS):
            one = trained(name, None)
            np.testing.assert_allclose(first["losses"][i], [entry["loss"] for entry in one.history], rtol=1e-12)
            check(first, name, one.params)
        check(first, "rows", trained("textconv", None, rows={"E": "x"}).params)
        _, net, data = NETS["rnn, every step"]
        predict = partial(rnn.predict, every_step=True)
        for batch in (3, 100):
            np.testing.assert_allclose(first[f"predictions {batch}"], train.predictions(predict, net, data), rtol=1e-13)
            scores = list(train.scores(rnn.loss, predict, net, data, batch).values())
            np.testing.assert_allclose(first[f"scores {batch}"], scores, rtol=1e-13)
    assert first["stopped"] == 2


def check(found, name, params):
    for i, a in enumerate(jax.tree.leaves(params)):
        got, want = found[f"{name} {i}"], np.asarray(a)
        assert np.abs(got - want).max() <= 100 * tolerance(want.dtype) * max(np.abs(want).max(), 1), name


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def alike(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert abs(a["loss"] - b["loss"]) < 1e-4
        assert abs(a["validation_loss"] - b["validation_loss"]) < 1e-4


def test_from_the_shell(folder, monkeypatch):
    where = address()
    pair = [jaxnets(where, 2, i, *TRAIN, "--epochs", 2, "--json", cwd=folder) for i in (0, 1)]
    monkeypatch.chdir(folder)
    assert main([str(a) for a in (*TRAIN[:-1], "alone", "--epochs", 2)]) == 0
    (code, out, _), other = (ended(process) for process in pair)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["ok"]
    assert other[:2] == (0, "")  # progress is shown once
    alike(history(folder / "run"), history(folder / "alone"))
    assert {p.name for p in (folder / "run").iterdir()} == {p.name for p in (folder / "alone").iterdir()}


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(victim, folder):
    """The other ends in time and says so; the run goes on in one process, and comes to what it would have come to."""
    where = address()
    constant = ("--schedule", "constant")  # which does not depend on the epochs, that are fewer below
    pair = [jaxnets(where, 2, i, *TRAIN, *constant, "--epochs", 300, cwd=folder) for i in (0, 1)]
    wait_for_a_checkpoint(folder)
    pair[victim].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    code, _, err = ended(pair[1 - victim], BOUND)
    assert time.monotonic() - begun < BOUND
    assert code == 2
    assert "another process of this run has stopped" in err
    assert "The last good checkpoint is" in err
    assert "To go on: jaxnets resume" in err
    pair[victim].communicate(timeout=BOUND)  # its run, too, is gone
    epochs = len(history(folder / "run")) + 1
    config = json.loads((folder / "run" / "config.json").read_text())
    config["options"]["epochs"] = epochs
    (folder / "run" / "config.json").write_text(json.dumps(config))
    assert ended(jaxnets("", 1, 0, "resume", "run", cwd=folder))[0] == 0
    assert len(history(folder / "run")) == epochs


def test_resumed_by_two(folder):
    assert ended(jaxnets("", 1, 0, *TRAIN, "--epochs", 4, "--rate", 1e-3, "--schedule", "constant", cwd=folder))[0] == 0
    whole = history(folder / "run")
    for path in (folder / "run").glob("step-*.safetensors"):
        if path != min((folder / "run").glob("step-*.safetensors")):
            path.unlink()
    where = address()
    # Only the first process needs the folder of the run.
    first = jaxnets(where, 2, 0, "resume", "run", cwd=folder)
    other = jaxnets(where, 2, 1, "resume", "no-such-folder", cwd=folder)
    assert ended(first)[0] == ended(other)[0] == 0
    alike(history(folder / "run"), whole)


def test_other_data_other_options_other_versions(folder):
    """Each is told by every process, in a line."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "long.txt").write_text(CHARACTERS.replace("quick", "swift"))
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata as m; v = m.version; m.version = lambda n: '9.9' if n == 'jaxnets' else v(n)"
    )
    for what, other in {
        "the data": lambda where: jaxnets(where, 2, 1, *TRAIN, cwd=elsewhere),
        "the options": lambda where: jaxnets(where, 2, 1, *TRAIN, "--rate", 0.5, cwd=folder),
        "the version of jaxnets (9.9 and": lambda where: jaxnets(
            where, 2, 1, *TRAIN, cwd=folder, PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        ),
    }.items():
        where = address()
        pair = jaxnets(where, 2, 0, *TRAIN, cwd=folder), other(where)
        for process in pair:
            code, _, err = ended(process, START + BOUND)
            assert code == 2
            assert f"process 1 and process 0 differ in {what}" in err
        assert not (folder / "run").exists()


def test_one_cannot_read_its_data(folder):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    where = address()
    first, other = jaxnets(where, 2, 0, *TRAIN, cwd=folder), jaxnets(where, 2, 1, *TRAIN, cwd=elsewhere)
    code, _, err = ended(other, START + BOUND)
    assert code == 2
    assert "long.txt" in err
    code, _, err = ended(first, START + BOUND)
    assert code == 2
    assert "another process of this run has stopped" in err


def test_interrupted_together(folder):
    where = address()
    pair = [jaxnets(where, 2, i, *TRAIN, "--epochs", 300, cwd=folder) for i in (0, 1)]
    wait_for_a_checkpoint(folder)
    pair[1].send_signal(signal.SIGINT)  # of one alone: both stop
    codes = [ended(process) for process in pair]
    assert [code for code, *_ in codes] == [130, 130]
    assert "jaxnets resume run" in codes[0][2]


def test_interrupted_at_once(folder):
    where = address()
    pair = [jaxnets(where, 2, i, *TRAIN, "--epochs", 300, cwd=folder) for i in (0, 1)]
    wait_for_a_checkpoint(folder)
    for _ in range(2):  # a third would end it by force
        pair[0].send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert ended(pair[0], BOUND)[0] == 130
    assert ended(pair[1], BOUND)[0] in (2, 130)  # it may have stopped before the other was ended


def test_interrupted_before_the_others_have_come(folder):
    alone = jaxnets(address(), 2, 0, *TRAIN, cwd=folder)
    time.sleep(3)
    alone.send_signal(signal.SIGINT)
    assert ended(alone, 10)[0] == 130
    assert not (folder / "run").exists()


def test_unlike_numbers(folder):
    """Of devices, and of the processes themselves."""
    for what, others in {"devices": ((), ("--devices", 2)), "the same --process": ((), (), ())}.items():
        where = address()
        them = [
            jaxnets(where, 2, min(i, 1), *TRAIN, *other, "--epochs", 300, cwd=folder) for i, other in enumerate(others)
        ]
        said = [ended(process, START + BOUND) for process in them]
        assert {code for code, *_ in said} == {2}
        assert any(what in err for *_, err in said)


def wait_for_a_checkpoint(folder):
    waiting = time.monotonic() + 120
    while not any((folder / "run").glob("step-*.safetensors")):
        assert time.monotonic() < waiting
        time.sleep(0.1)
