"""Training from the shell: what a run leaves, going on with it, asking and judging it, what is said of bad input."""

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

import programs
from helpers import assert_same
from jaxnets import data, train
from jaxnets.check import worksheets
from jaxnets.cli import COMMANDS, _joining, _nets, _pictures, _recipes, _sources, _training, agreement, demo, main
from jaxnets.cli import train as train_command
from jaxnets.cli._guard import Stop
from jaxnets.train import _checkpoint

RNG = np.random.default_rng(0)
KEPT = {"loss_of": cache(_nets.loss_of), "predict_of": cache(_nets.predict_of)}
WORDS = {"good": ["sun", "bright", "warm"], "bad": ["rain", "cold", "grey"]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):
        yield


@cache
def optimizer_of(options, steps, make=_nets.optimizer):
    return make(json.loads(options), steps)


@pytest.fixture(autouse=True)
def programs_are_kept(monkeypatch):
    """And with them the losses, predictions and optimizers that they are compiled for."""
    programs.keep(monkeypatch)
    monkeypatch.setattr(_nets, "optimizer", lambda options, steps: optimizer_of(json.dumps(options), steps))
    for name, f in KEPT.items():
        monkeypatch.setattr(_nets, name, f)


@pytest.fixture
def pictures():
    """For tests in which pictures are drawn, and not only left as empty files."""


@pytest.fixture(autouse=True)
def empty_pictures(request, monkeypatch):
    """To draw them takes longer than all else that a run of few numbers does."""
    if "pictures" not in request.fixturenames:
        for name in ("curve", "confusion"):
            monkeypatch.setattr(_pictures, name, lambda path, *_: path.write_bytes(b""))


@pytest.fixture
def run(capsys, monkeypatch):
    def run(*arguments, stdin=None):
        if stdin is not None:
            content = stdin if isinstance(stdin, bytes) else stdin.encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def sentence(label):
    return " ".join(RNG.choice(WORDS[label], RNG.integers(1, 6)))


LABELS = ["good", "bad"] * 20
FILES = {
    "texts.tsv": "".join(f"{label}\t{sentence(label)}\n" for label in LABELS),
    "texts.jsonl": "".join(json.dumps({"label": label, "text": sentence(label)}) + "\n" for label in LABELS),
    "good.txt": "".join(sentence("good") + "\n" for _ in range(20)),
    "bad.txt": "".join(sentence("bad") + "\n" for _ in range(20)),
    "table.csv": "age,job,pay,who\n"
    + "".join(
        f"{20 + i % 40},{['cook', 'smith', ''][i % 3]},{100 * (i % 7)},{'young' if i % 40 < 20 else 'old'}\n"
        for i in range(40)
    ),
    "long.txt": "the quick brown fox jumps over the lazy dog. " * 60,
}


def write_files():
    rng = np.random.default_rng(1)
    for name, content in FILES.items():
        Path(name).write_text(content)
    x, y = (rng.random((40, 4, 3)) * 255).astype(np.uint8), (np.arange(40) % 3).astype(np.uint8)
    for name, a in (("images", x), ("labels", y)):
        head = bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape)
        Path(name).write_bytes(gzip.compress(head + a.tobytes()))
    np.savez("steps.npz", x=rng.integers(0, 5, (40, 6)), y=rng.integers(0, 3, (40, 6)), lengths=np.arange(40) % 7)
    np.savez("gated.npz", x=rng.random((40, 3)), eta=rng.random((40, 2)), y=np.arange(40) % 2)


@pytest.fixture
def files(tmp_path):
    write_files()


QUICK = ("--epochs", 2, "--batch", 8, "--held-out", 0.2)
TABLE = ("train", "dense", "--data", "csv:table.csv", *QUICK)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A folder with the files, and `run`, a run of a table."""
    folder = tmp_path_factory.mktemp("once")
    with contextlib.chdir(folder), jax.enable_x64(False):
        write_files()
        assert main([str(a) for a in (*TABLE, "--out", "run")]) == 0
    return folder


@pytest.fixture
def trained(tmp_path, trained_once):
    """A copy of it, to be spoilt."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    config = Path("run/config.json")
    config.write_text(config.read_text().replace(str(trained_once), str(tmp_path)))


KINDS = {
    "rnn idx": (["rnn", "--data", "idx:images,labels", "--hidden", 4], ",".join(["9"] * 12), 3),
    "rnn npz, every step": (["rnn", "--data", "npz:steps.npz", "--hidden", 4], "[1, 2, 4]", None),
    "rnn jsonl": (["rnn", "--data", "jsonl:texts.jsonl", "--hidden", 4], "sunny", 2),
    "rnn characters": (["rnn", "--data", "characters:long.txt", "--hidden", 4], "the qui", 29),
    "textconv tsv": (["textconv", "--data", "tsv:texts.tsv", "--filters", 4, "--embed", 3, "--widths", 1, 2], "sun", 2),
    "textconv polarity": (
        ["textconv", "--data", "polarity:bad.txt,good.txt", "--filters", 4, "--embed", 3, "--widths", 2],
        "sun",
        2,
    ),
    "gated csv": (["gated", "--data", "csv:table.csv", "--x", "age", "--eta", "job", "pay"], "30,cook,100", 2),
    "gated npz": (["gated", "--data", "npz:gated.npz", "--hidden", 3], "1,2,3,4,5", 2),
    "dense csv": (["dense", "--data", "csv:table.csv", "--y", "who", "--layers", 3, "--hidden", 4], "30,smith,?", 2),
    "dense idx": (["dense", "--data", "idx:images,labels", "--hidden", 4], "[[1,2,3],[4,5,6],[7,8,9],[1,1,1]]", 3),
}


def export_serves(run, line):
    """What the run's net says of this line, as one file."""
    code, out, _ = run("export", "run", "--out", "net.jaxnet", "--json")
    told, beside = json.loads(out), json.loads(Path("net.jaxnet.json").read_text())
    assert code == 0
    assert all(beside[name] == told[name] for name in ("inputs", "output", "classes"))
    config = _training.config_of("run")
    given = config.recipe.inputs([line] * 3)
    exported = jax.export.deserialize(bytearray(Path("net.jaxnet").read_bytes()))
    served = np.asarray(exported.call(*(given[name] for name in told["inputs"])))
    want = np.asarray(jax.jit(config.predict)(_training.best("run", config), **given))
    np.testing.assert_allclose(served, want, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_train_eval_predict(run, files, name):
    """Every kind of data: a run leaves what it should, can be judged on its own data and others, and answers lines."""
    arguments, line, classes = KINDS[name]
    code, out, err = run("train", *arguments, *QUICK, "--out", "run", "--json")
    assert (code, err) == (0, "")
    first, _, last = map(json.loads, out.splitlines())
    assert (first["epoch"], last["ok"], last["epochs"], last["out"]) == (1, True, 2, "run")
    left = {path.name for path in Path("run").iterdir()}
    expected = {"config.json", "metrics.jsonl", "curve.png"} | ({"confusion.png"} if classes in (2, 3) else set())
    assert {n for n in left if not n.startswith("step-")} == expected
    assert _training.history_of(Path("run")) == [json.loads(line) for line in out.splitlines()[:2]]
    code, out, _ = run("eval", "run", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert found["accuracy"] == last["accuracy"]
    spec = arguments[arguments.index("--data") + 1]
    code, out, _ = run("eval", "run", "--data", spec)
    assert code == 0
    assert "accuracy" in out
    code, out, _ = run("predict", "run", "--json", stdin=f"{line}\n\n{line}")
    answers = [json.loads(answer) for answer in out.splitlines()]
    assert code == 0
    assert answers[0]["class"] == answers[2]["class"]
    assert answers[0]["probabilities"] == pytest.approx(answers[2]["probabilities"], rel=1e-5)
    assert (answers[1] is None) == (_training.config_of("run").recipe.form in ("arrays", "table"))
    if classes:
        assert len(answers[0]["probabilities"]) == classes
        assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    if name in ("rnn idx", "rnn npz, every step", "textconv tsv", "gated csv"):
        export_serves(run, line)


def test_what_is_exported_runs_without_jaxnets(run, files):
    """In a process that cannot import it."""
    arguments, line, _ = KINDS["gated csv"]
    run("train", *arguments, *QUICK, "--out", "run")
    assert run("export", "run", "--out", "net.jaxnet")[0] == 0
    config = _training.config_of("run")
    given = config.recipe.inputs([line] * 2)
    np.savez("given.npz", **given)
    server = """if True:
        import json, sys
        sys.modules["jaxnets"] = None
        import jax, numpy as np
        net = jax.export.deserialize(bytearray(open("net.jaxnet", "rb").read()))
        given, told = np.load("given.npz"), json.load(open("net.jaxnet.json"))
        print(json.dumps(np.asarray(net.call(*(given[name] for name in told["inputs"]))).tolist()))
    """
    answer = subprocess.run([sys.executable, "-c", server], capture_output=True, text=True, check=True).stdout
    want = np.asarray(config.predict(_training.best("run", config), **given))
    np.testing.assert_allclose(json.loads(answer), want, atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "out", "message"), [("run", "no/net", "no such folder: no"), ("none", "net", "none")]
)
def test_what_cannot_be_exported(run, files, folder, out, message):
    run("train", *KINDS["gated csv"][0], *QUICK, "--out", "run")
    code, _, err = run("export", folder, "--out", out)
    assert code == 2
    assert message in err
    assert not list(Path().glob("net*"))


def test_it_learns(run, files, pictures):
    """And the classes are called by their names, and there is something to see."""
    code, out, _ = run(
        *("train", "textconv", "--data", "tsv:texts.tsv", "--filters", 8, "--embed", 8, "--epochs", 12, "--batch", 8),
        *("--widths", 1, "--rate", 0.02, "--out", "run"),
    )
    assert code == 0
    assert "accuracy 1.0000, auc 1.0000 on the part held out" in out
    for name in ("curve.png", "confusion.png"):
        assert Path("run", name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    _, out, _ = run("predict", "run", stdin="cold rain\nwarm sun\n\n")
    first, second, empty = (line.split("\t") for line in out.splitlines())
    assert [first[0].split()[0], second[0].split()[0]] == ["bad", "good"]
    assert len(empty) == 2
    _, out, _ = run("eval", "run")
    assert "is \\ taken for" in out


@pytest.mark.parametrize("net", _nets.NETS)
def test_by_hand_and_by_autodiff_are_the_same_descent(net):
    """On the built-in tasks, to rounding; which also shows that these are there."""
    options = train_command.Options(net, epochs=1, batch=256)
    if net == "textconv":
        options.drop, options.filters, options.embed, options.widths = 0.0, 5, 8, (2,)
    else:
        options.hidden = 16
    config, found = train_command.plan(options)
    losses = []
    for options.by in ("hand", "autodiff"):
        by = config._replace(options=train_command._settings(options))
        losses.append(_training.fit(by, found, Path(options.by), lambda _: None, Stop()).history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def arrays_of(folder):
    return _checkpoint.newest(folder)[0]


def without_time(folder):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in _training.history_of(Path(folder))]


class Killed(BaseException):
    pass


def killed():
    raise Killed


@contextlib.contextmanager
def in_the_middle_of_the_third_epoch(call):
    fit = _training.fit

    def interrupted(config, found, folder, watch, stop, mesh):
        def watched(progress):
            watch(progress)
            if progress.entry is None and progress.epoch == 3:
                call()

        return fit(config, found, folder, watched, stop, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training, "fit", interrupted)
        yield


def test_stopped_and_resumed_is_as_if_never_stopped(run, files, monkeypatch):
    """By a signal, or gone without a word; the entries of the epochs are there once each."""
    arguments = ("train", "dense", "--data", "csv:table.csv", "--epochs", 4, "--batch", 4, "--hidden", 5)
    monkeypatch.setattr(_training, "AT_ONCE", 4)
    assert run(*arguments, "--out", "whole")[0] == 0
    with in_the_middle_of_the_third_epoch(lambda: signal.raise_signal(signal.SIGINT)):
        code, out, err = run(*arguments, "--out", "stopped", "--json")
    assert code == 130
    assert json.loads(out.splitlines()[-1]) == {"ok": False, "interrupted": True, "out": "stopped"}
    assert err.splitlines()[-1].endswith("To go on: jaxnets resume stopped")
    with in_the_middle_of_the_third_epoch(killed), pytest.raises(Killed):
        run(*arguments, "--out", "killed")
    for part in ("stopped", "killed"):
        assert len(_training.history_of(Path(part))) == 2, part
        for _ in range(2):  # the second time there is nothing left to do
            assert run("resume", part)[0] == 0, part
            assert_same(arrays_of(part), arrays_of("whole"))
            assert without_time(part) == without_time("whole"), part


def test_two_that_begin_in_one_folder_at_the_same_moment(run, files, monkeypatch):
    """The later one is refused, and what the earlier one has there stays."""
    new_folder = _training.new_folder

    def another_comes_first(config, out):
        folder = new_folder(config, out)
        (folder / "config.json").write_text("the other's")
        return folder

    monkeypatch.setattr(_training, "new_folder", another_comes_first)
    code, _, err = run(*TABLE, "--out", "run")
    assert (code, err) == (2, "jaxnets: --out run: holds a run already; `jaxnets resume run` goes on with it\n")
    assert [path.name for path in Path("run").iterdir()] == ["config.json"]
    assert Path("run/config.json").read_text() == "the other's"


def test_interrupted_before_an_epoch_is_done(run, files, monkeypatch):
    """What is scored then are the parameters of the last step, and this is said."""
    monkeypatch.setattr(_training, "AT_ONCE", 4)
    fit = _training.fit

    def interrupted(config, found, folder, watch, stop, mesh):
        return fit(config, found, folder, lambda progress: setattr(stop, "asked", True), stop, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training, "fit", interrupted)
        assert run("train", "dense", "--data", "csv:table.csv", "--batch", 4, "--hidden", 5, "--out", "run")[0] == 130
    code, out, err = run("eval", "run", "--json")
    assert code == 0
    assert err == "jaxnets: run: no epoch is done yet; these are the parameters after step 3\n"
    config = _training.config_of("run")
    arrays, record, _ = _checkpoint.newest("run")
    params = jax.tree.unflatten(
        jax.tree.structure(config.shapes), [a for name, a in arrays.items() if name.startswith("state.params")]
    )
    assert record["step"] == 3
    want = train.scores(config.loss, None, params, _training.held_out(config, _training.data_of(config)))["loss"]
    assert json.loads(out)["loss"] == pytest.approx(want)


@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device here")
def test_on_two_devices_and_resumed_on_one(run, files):
    """The same descent but for rounding, and for its seconds."""
    arguments = ("train", "dense", "--data", "csv:table.csv", "--batch", 5, "--hidden", 5, "--schedule", "constant")
    assert run(*arguments, "--epochs", 4, "--out", "one")[0] == 0
    assert run(*arguments, "--epochs", 4, "--out", "auto", "--devices", "auto")[0] == 0
    assert run(*arguments, "--epochs", 2, "--out", "two", "--devices", 2)[0] == 0
    config = json.loads(Path("two/config.json").read_text())
    config["options"]["epochs"] = 4
    Path("two/config.json").write_text(json.dumps(config))
    assert run("resume", "two", "--devices", 1)[0] == 0
    losses = [[entry["loss"] for entry in without_time(folder)] for folder in ("one", "two", "auto")]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)


def shell(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "jaxnets", *map(str, arguments)], text=True, **options)


def test_ctrl_c(files):
    """A process of its own: SIGINT saves, says how to go on, and exits with 130."""
    arguments = (
        "train",
        "dense",
        "--data",
        "csv:table.csv",
        "--epochs",
        100_000,
        "--patience",
        100_000,
        "--out",
        "run",
    )
    process = shell(*arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert "epoch 1 of" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "jaxnets: interrupted, and saved. To go on: jaxnets resume run"
    step = max(Path("run").glob("step-*"))
    assert _checkpoint._read(step)[1]["step"] == int(step.stem.split("-")[1])


@pytest.mark.parametrize("moment", [0.15, 0.4, 0.8, 1.2])
def test_ctrl_c_in_the_first_seconds(files, moment):
    """Before anything is written: a line, and nothing is left behind."""
    process = shell("train", "rnn", "--out", "run", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if "saved" not in err:  # a fast machine
        assert process.returncode in (130, -signal.SIGINT)  # so ends a Python that was amid `exec`: to a shell the same
        assert (out, err) == ("", "jaxnets: interrupted\n")
        assert not Path("run").exists()


def test_ctrl_c_that_a_library_drops_is_heard(run, monkeypatch, files):
    """Python goes on after an exception in a destructor."""
    parts = _sources.read

    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def read(*args):
        Dropping()
        return parts(*args)

    monkeypatch.setattr(_sources, "read", read)
    assert run("train", "dense", "--data", "csv:table.csv", "--out", "run") == (130, "", "jaxnets: interrupted\n")
    assert not Path("run").exists()


def test_killed_without_a_word(run, files):
    """The process is gone at any moment; the run ends with the same bits."""
    arguments = ("train", "dense", "--data", "csv:table.csv", "--epochs", 150, "--patience", 150, "--hidden", 5)
    assert run(*arguments, "--out", "whole")[0] == 0
    process = shell(*arguments, "--out", "part", stderr=subprocess.PIPE)
    for _ in range(20):
        process.stderr.readline()
    process.kill()
    process.communicate()
    assert 20 <= len(_training.history_of(Path("part"))) < 150
    assert run("resume", "part")[0] == 0
    assert_same(arrays_of("part"), arrays_of("whole"))
    assert without_time("part") == without_time("whole")


def test_a_pipe(trained):
    """A line is answered before the next has come; whoever reads no further ends it quietly."""
    process = shell("predict", "run", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in ("30,cook,100", "?,smith,200", "41,cook,?"):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        assert process.stdout.readline().count("\t") == 1
    process.stdout.close()
    try:
        process.stdin.write("30,cook,100\n" * 1000)
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(timeout=60) == 0
    with process.stderr:
        assert process.stderr.read() == ""


def test_bad_lines_are_named_and_those_before_are_answered(run, files):
    assert (
        run("train", "gated", "--data", "csv:table.csv", "--x", "age", "--eta", "job", *QUICK, "--out", "run")[0] == 0
    )
    for bad, told in (
        ("31,tailor", "line 3: Columns: column 'job' must be one of cook, smith; got 'tailor'"),
        ("31", "line 3: expected 2 cells (age, job); got 1"),
        ("old,cook", "line 3: Columns: column 'age' must be numbers; got 'old'"),
        ('31,"cook', "line 3: expected a row of CSV"),
    ):
        code, out, err = run("predict", "run", stdin=f"30,cook\n?,smith\n{bad}\n30,cook\n")
        assert code == 2
        assert len(out.splitlines()) == 2
        assert err.startswith(f"jaxnets: {told}")
        assert len(err.splitlines()) == 1
    with_header = "who,job,age,pay\nx,cook,30,5\nx,smith,?,5\n"
    assert run("predict", "run", stdin=with_header)[1] == run("predict", "run", stdin="30,cook\n?,smith\n")[1]
    code, out, err = run("predict", "run", "--json", stdin="1\n")
    assert (code, json.loads(out)["ok"]) == (2, False)


def test_latin_1(run, files):
    Path("texts.tsv").write_bytes(FILES["texts.tsv"].replace("sun", "Größe").encode("latin-1"))
    assert (
        run("train", "textconv", "--data", "tsv:texts.tsv", *QUICK, "--filters", 3, "--widths", 1, "--out", "run")[0]
        == 0
    )
    assert "größe" in json.loads(Path("run/config.json").read_text())["recipe"]["known"]
    lines = [run("predict", "run", stdin="Größe".encode(encoding))[1] for encoding in ("utf-8", "latin-1")]
    assert lines[0] == lines[1]


def test_only_the_training_part_is_learned_from():
    """Words, scales and categories; what only the other part has is unknown there, or missing."""
    texts = data.Texts(["a b", "c", "b d"], np.array([0, 1, 0], np.int32), ("n", "y"))
    recipe = _recipes.learn(texts, np.array([0, 1]), "textconv", _sources.Source("tsv"))
    assert set(recipe.known) == {"a", "b", "c"}
    found = recipe.data(texts, np.array([2]), _sources.Source("tsv"))[0]
    assert found["x"].tolist() == [[recipe.known.index("b") + 1, 0]]
    table = {"n": np.array([1.0, 3.0, 100.0]), "c": np.array(["p", "p", "q"]), "y": np.array(["u", "v", "u"])}
    source = _sources.Source("csv", x=("n", "c"), y="y")
    recipe = _recipes.learn(table, np.array([0, 1]), "dense", source)
    assert recipe.groups["x"].scales["n"] == (2.0, 1.0)
    held_out = recipe.data(table, np.array([2]), source, strict=False)
    np.testing.assert_array_equal(held_out["x"], [[98.0, 0.0]])
    with pytest.raises(ValueError, match="column 'c' must be one of p; got 'q'"):
        recipe.data(table, np.array([2]), source)


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_survives_its_file(files, name):
    arguments = KINDS[name][0]
    given = dict(zip(("net", "data"), (arguments[0], arguments[2]), strict=True))
    columns = {"x": ("age",), "eta": ("job",)} if name == "gated csv" else {}
    config, _ = train_command.plan(train_command.Options(**given, **columns))
    config.save(Path())
    assert _training.config_of("") == config


def test_a_new_folder_each_time_and_none_is_overwritten(run, files):
    for n in (1, 2):
        assert f"runs/dense-table-{n}: " in run(*TABLE)[1]
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.*")}
    code, _, err = run(*TABLE, "--out", "runs/dense-table-1")
    assert code == 2
    assert "--out runs/dense-table-1: holds a run already; `jaxnets resume runs/dense-table-1` goes on with it" in err
    assert {path: path.read_bytes() for path in Path("runs").rglob("*.*")} == before


# Faults.


def damaged(path, how):
    content = path.read_bytes()
    path.write_bytes(content[:100] if how == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(run, trained, how):
    _, newer = sorted(Path("run").glob("step-*"))
    damaged(newer, how)
    for command in (["eval", "run"], ["resume", "run"]):
        code, _, err = run(*command)
        assert code == 0
        assert next(line for line in err.splitlines() if "epoch" not in line).startswith(f"jaxnets: {newer}: damaged")
        assert err.count("the checkpoint before it is tried") == 1
    for path in Path("run").glob("step-*"):
        damaged(path, "cut")
    code, _, err = run("predict", "run", stdin="30,cook,100\n")
    assert code == 2
    assert err.splitlines()[-1] == "jaxnets: run: each of the 2 checkpoints is damaged"


def test_data_that_have_changed_are_refused(run, trained):
    Path("table.csv").write_text(FILES["table.csv"].replace("smith", "baker"))
    for command in ("resume", "eval"):
        code, _, err = run(command, "run")
        assert code == 2
        assert "table.csv: has changed since the run was begun" in err


def test_a_full_disk(run, trained):
    """What was there stays; of a run that could not even begin, nothing does."""
    max(Path("run").glob("step-*")).unlink()  # so that there is something left to do
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        results = run("resume", "run"), run(*TABLE, "--out", "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    for code, _, err in results:
        assert code == 2
        assert "File too large" in err.splitlines()[-1]
        assert err.splitlines()[-1].startswith(("jaxnets: run/step-", "jaxnets: new/config.json"))
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    assert not Path("new").exists()
    assert run("resume", "run")[0] == 0


def test_a_folder_that_cannot_be_written_to(run, files, monkeypatch):
    Path("shut").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, for whom nothing is shut
    code, _, err = run(*TABLE, "--out", "shut")
    assert code == 2
    assert err == "jaxnets: shut: must be a folder that can be written to; it cannot\n"


BAD = {
    "net": (["rnm"], "there is no net 'rnm'; did you mean 'rnn'?"),
    "kind": (["rnn", "--data", "idxx:a,b"], "did you mean 'idx'?"),
    "no kind": (["dense", "--data", "table.csv"], "say of which kind it is, as csv:table.csv"),
    "no path": (["dense", "--data", "csv"], "--data must be csv:FILE; got 'csv'"),
    "one of two": (["rnn", "--data", "idx:images"], "--data must be idx:IMAGES,LABELS; got 'idx:images'"),
    "a path too many": (["rnn", "--data", "digits:x"], "--data digits is built in and takes no path"),
    "no file": (["dense", "--data", "csv:nowhere.csv"], "nowhere.csv: no such file"),
    "misfit": (["gated", "--data", "tsv:texts.tsv"], "gated does not take tsv; it takes cancer, csv, npz"),
    "empty": (["textconv", "--data", "tsv:empty"], "empty: must have at least one row; it has none"),
    "a header alone": (["dense", "--data", "csv:header.csv"], "header.csv: must have at least one row"),
    "ragged": (["dense", "--data", "csv:ragged.csv"], "ragged.csv, line 3: must be 4 cells"),
    "magic": (["rnn", "--data", "idx:table.csv,labels"], "table.csv: must be an IDX file"),
    "gzip": (["rnn", "--data", "idx:cut,labels"], "cut: must be a whole gzip file; it is truncated or damaged"),
    "sizes": (["rnn", "--data", "idx:images,images"], "y must be [n], or [n, steps]; got [40, 4, 3]"),
    "counts": (["rnn", "--data", "idx:images,few"], "must be as many of each, at least one; got 40 of x, 3 of y"),
    "one class": (["textconv", "--data", "tsv:one.tsv"], "must have two classes or more; got only 'good'"),
    "a class each": (["dense", "--data", "csv:table.csv", "--y", "age"], "must be classes, each of many examples"),
    "three classes": (["gated", "--data", "npz:three.npz"], "the gated net tells two classes apart; npz:"),
    "column": (
        ["dense", "--data", "csv:table.csv", "--y", "hwo"],
        "--y: there is no column 'hwo'; did you mean 'who'?",
    ),
    "columns": (["gated", "--data", "csv:table.csv"], "--x and --eta must say which columns"),
    "twice": (["gated", "--data", "csv:table.csv", "--x", "age", "--eta", "age"], "'age' must appear once"),
    "columns of what": (["rnn", "--x", "age"], "--x, --eta and --y name columns of csv:FILE"),
    "no second input": (["dense", "--data", "csv:table.csv", "--eta", "age"], "--eta is of the gated net"),
    "no labels": (["dense", "--data", "csv:unlabelled.csv"], "must have a label; 1 have none"),
    "real targets": (["dense", "--data", "csv:half.csv"], "a label that is a word or a whole number; got 0.5"),
    "too short": (["rnn", "--data", "characters:good.txt", "--held-out", 0.01], "must have more than 128 characters"),
    "objects": (["rnn", "--data", "npz:table.csv"], "table.csv: must be an NPZ file of plain arrays"),
    "another's option": (["rnn", "--filters", 3], "--filters is not an option of rnn, which has --hidden"),
    "no device": (["rnn", "--devices", 0], "--devices must be a number from 1, or auto; got '0'"),
    "devices": (["rnn", "--devices", 4000], "--devices must be at most"),
    "no units": (["rnn", "--hidden", 0], "--hidden must be at least 1"),
    "too many units": (["rnn", "--hidden", 10**6], "there is not enough memory for a net of these sizes: 1e+12 param"),
    "beyond": (["rnn", "--hidden", 10**10], "--hidden must be at least 1, and less than 2³¹"),
    "widths": (["textconv", "--widths", 3, 0], "--widths must be at least 1"),
    "rate": (["rnn", "--rate", 0], "--rate must be more than 0; got 0.0"),
    "nan": (["rnn", "--rate", "nan"], "--rate must be more than 0; got nan"),
    "drop": (["textconv", "--drop", 1], "--drop must be from 0, to below 1; got 1.0"),
    "drop by autodiff": (["textconv", "--drop", 0.5, "--by", "autodiff"], "--drop goes with --by hand"),
    "held out": (["rnn", "--held-out", 0], "--held-out must be more than 0, to below 1; got 0.0"),
    "all held out": (["dense", "--data", "csv:table.csv", "--held-out", 0.999], "held_out must leave both parts"),
    "seed": (["rnn", "--seed", -1], "--seed must be at least 0"),
    "diverged": (["dense", "--data", "csv:table.csv", "--rate", 1e38, "--schedule", "constant"], "fit: the"),
    "no folder": (["dense", "--data", "csv:table.csv", "--out", "texts.tsv/run"], "texts.tsv"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(run, files, name):
    """One line, exit code 2; nothing is left of it."""
    Path("empty").write_text("\n")
    Path("header.csv").write_text("a,b\n")
    Path("ragged.csv").write_text("age,job,pay,who\n1,cook,2,old\n1,cook,2\n")
    Path("one.tsv").write_text("good\tsun\n" * 10)
    Path("unlabelled.csv").write_text("a,b\n" + "1,x\n2,y\n" * 9 + "3,\n")
    Path("half.csv").write_text("a,b\n" + "1,0.5\n2,1\n" * 9)
    Path("cut").write_bytes(Path("images").read_bytes()[:40])
    Path("few").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 0, 1, 2]))
    np.savez("three.npz", x=np.ones((30, 2)), eta=np.ones((30, 2)), y=np.arange(30) % 3)
    before = sorted(Path().rglob("*"))
    arguments, told = BAD[name]
    code, out, err = run("train", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert [path for path in sorted(Path().rglob("*")) if path not in before] in ([], [Path("runs")])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "Missing from jaxnets train: NET"),
        (["train", "rnn", "--epochs", "ten"], "Error parsing --epochs"),
        (["train", "rnn", "--by", "foot"], "--by"),
        (["eval", "run", "--dta", "x"], "--dta"),
    ],
)
def test_options_that_cannot_be_read(run, arguments, told):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.endswith(f"(jaxnets {arguments[0]} --help tells all)\n")
    assert len(err.splitlines()) == 1


BAD_RUNS = {
    "no folder": ({}, "nowhere: no run is there (it has no config.json)"),
    "no json": ({"config.json": "{"}, "config.json: is damaged, or no config of this version (JSONDecodeError"),
    "another's": ({"config.json": "{}"}, "config.json: is damaged, or no config of this version (KeyError: 'format')"),
    "of no format": ({"config.json": '{"format": "x"}'}, "its format is 'x', expected 'jaxnets run 1'"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
@pytest.mark.parametrize("command", ["resume", "eval", "predict"])
def test_bad_runs(run, name, command):
    content, told = BAD_RUNS[name]
    for file, text in content.items():
        Path("nowhere").mkdir()
        Path("nowhere", file).write_text(text)
    code, out, err = run(command, "nowhere", stdin="1\n")
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


BAD_EVAL = {
    "another form": ("tsv:texts.tsv", "--data must be of a kind that this run can be scored on (csv); got tsv"),
    "a column missing": ("csv:less.csv", "less.csv: must have the column 'pay'"),
    "a category": ("csv:more.csv", "column 'job' must be one of cook, smith; got 'tailor'"),
    "a label": ("csv:label.csv", "column 'who': a label must be one of old, young; got 'middling'"),
}


@pytest.mark.parametrize("name", BAD_EVAL)
def test_bad_eval(run, trained, name):
    Path("less.csv").write_text("age,job,who\n1,cook,old\n")
    Path("more.csv").write_text("age,job,pay,who\n1,tailor,1,old\n")
    Path("label.csv").write_text("age,job,pay,who\n1,cook,1,middling\n")
    spec, told = BAD_EVAL[name]
    code, out, err = run("eval", "run", "--data", spec)
    assert (code, out) == (2, "")
    assert told in err


def test_a_failed_start_leaves_a_folder_that_was_there(run, monkeypatch):
    """And one that was not there is taken away; the error is told, whatever the folder is."""
    Path("table.csv").write_text(FILES["table.csv"])
    Path("mine").mkdir()
    Path("link").symlink_to("mine")

    def broken(*_):
        raise ValueError("no such luck")

    monkeypatch.setattr(_training, "fit", broken)
    for out in ("mine", "link", "new"):
        code, _, err = run(*TABLE, "--out", out)
        assert code == 2
        assert err.splitlines()[-1] == "jaxnets: no such luck"
    assert Path("mine").is_dir()
    assert Path("link").is_symlink()
    assert not Path("new").exists()


def test_no_checkpoint_yet(run, trained):
    for path in Path("run").glob("step-*"):
        path.unlink()
    code, _, err = run("predict", "run", stdin="")
    assert code == 2
    assert "run: has no checkpoint yet; `jaxnets resume run` goes on with the training" in err


def test_bad_addresses(run, files, monkeypatch):
    """Of the processes of a run, and their numbers."""
    monkeypatch.setattr(_joining, "WAIT", 1)

    def said(*between):
        code, _, err = run("train", "rnn", "--data", "characters:long.txt", "--out", "run", *between)
        assert code == 2
        return err

    with socket.socket() as trial, socket.socket() as taken:
        for one in (trial, taken):
            one.bind(("127.0.0.1", 0))
        free, port = f"127.0.0.1:{trial.getsockname()[1]}", taken.getsockname()[1]
        trial.close()
        taken.listen()
        assert "needs --processes N" in said("--coordinator", free)
        assert "needs --coordinator HOST:PORT" in said("--processes", 2)
        assert "from 0 to 1" in said("--coordinator", free, "--processes", 2, "--process", 2)
        assert "HOST:PORT" in said("--coordinator", "here", "--processes", 2)
        assert "is process 0 running there" in said("--coordinator", free, "--processes", 2, "--process", 1)
        nowhere = "no-such-host.invalid:1234"
        assert "there is no host" in said("--coordinator", nowhere, "--processes", 2, "--process", 1)
        assert f"port {port} cannot be used here" in said("--coordinator", f"127.0.0.1:{port}", "--processes", 2)
    assert not Path("run").exists()


# The demo.


@pytest.fixture
def less(monkeypatch):
    """Of everything."""
    monkeypatch.setattr(demo, "EPOCHS", dict.fromkeys(_nets.NETS, 2))
    monkeypatch.setattr(_nets, "NETS", {"gated": _nets.NETS["gated"]})
    cases = [case for case in worksheets.cases() if case.tag in ("P1", demo.SHOWN)]
    monkeypatch.setattr(worksheets, "cases", lambda: cases)


def check_demo(run):
    code, out, err = run("demo", "--out", "first")
    assert code == 0
    assert "all right" in out
    assert "x7 against recurrent: WRONG, first in W" in out
    assert err == ""  # in a pipe nothing stands between the tables
    page = Path("first/report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "x7 against recurrent: WRONG, first in W" in page
    assert "http" not in page
    assert "7, all agree" in page
    assert "gated on cancer" in out
    code, _, err = run("demo", "--out", "first")
    assert code == 2
    assert "--out first: must be a new or an empty folder" in err


def test_the_page_of_the_demo(run, less, pictures, monkeypatch):
    """With a table of gradients that is made up: `test_cli.py` looks at the real one."""
    row = dict.fromkeys(agreement.LIMITS, 0.5) | {"net": "gated", "right": True}
    monkeypatch.setattr(agreement, "rows", lambda: (row | {"leaf": f"params.{name}"} for name in "WUVbcde"))
    check_demo(run)


def test_demo(run, less, pictures, monkeypatch):
    monkeypatch.setattr(agreement, "NETS", ("gated",))
    monkeypatch.setattr(agreement.rows, "__defaults__", (("gated",), 0))
    check_demo(run)


def test_pictures(pictures):
    history = [{"epoch": i, "training_loss": 1 / i, "validation_loss": 1 / i + 0.1} for i in range(1, 4)]
    _pictures.curve(Path("curve.png"), history, 3, "a net")
    _pictures.confusion(Path("c.png"), np.eye(20, dtype=int), tuple(f"class\t$_{i}" for i in range(20)), "a net")
    for name in ("curve.png", "c.png"):
        assert Path(name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_bar(monkeypatch):
    """On a terminal; drawn into nothing here."""
    from jaxnets.cli import _watching
    from jaxnets.train import Progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with _watching.watching(False, "a net: ") as watch:
        watch(Progress(1, 2, 5, 10, 0.5, None, []))
        watch(Progress(1, 2, 10, 10, 0.5, {"loss": 0.5, "validation_accuracy": 0.9}, [{}]))
        time.sleep(0.01)


@pytest.mark.parametrize("command", ["train", "resume", "eval", "predict", "demo"])
def test_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"jaxnets {command}" in out
    assert "Exit code: 0" in out
    assert command in run("--help")[1]


def test_alone_it_says_what_one_can_do(run):
    """In a few lines; with a run that is here, the one that was begun last."""
    code, out, _ = run()
    assert code == 0
    assert "is my gradient right?" in out
    assert len(out.splitlines()) <= 10
    for number in (1, 2):
        folder = Path("runs", f"a run-{number}")
        folder.mkdir(parents=True)
        (folder / "step-1.safetensors").touch()
        (folder / "config.json").touch()
        os.utime(folder / "config.json", (number, number))
    Path("runs/nothing yet").mkdir()
    assert "jaxnets eval 'runs/a run-2'" in run()[1]
    assert (
        run("trian")[2] == f"jaxnets: no such command: 'trian'; did you mean 'train'? There are {', '.join(COMMANDS)}\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell):
    code, out, err = run("completion", shell)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("--held-out", "--derivation", "predict"))
