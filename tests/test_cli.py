"""The shell command: exit codes, what it prints, and what it says of input that it cannot take."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnets.check import Cause, Leaf, Report, _picture
from jaxnets.cli import agreement, main

HOMEWORK = """
import jax
import jax.numpy as jnp
import numpy as np
from jaxnets import check


def loss(params, x):
    s = check.mark("s", x @ params["W"] + params["b"][None])
    return jnp.tanh(s).sum()


def grads(params, x):
    s_bar = 1 - jnp.tanh(x @ params["W"] + params["b"][None]) ** 2
    return {"W": x.T @ s_bar, "b": s_bar.sum(0)}


def mean(params, x):
    return {name: g / 4 if name == "b" else g for name, g in grads(params, x).items()}


def lines(params, x):
    s_bar = jnp.ones_like(x @ params["W"])
    return {"s": s_bar, "params": {"W": x.T @ s_bar, "b": s_bar.sum(0)}}


def raising(params, x):
    return {"W": x @ params["W"].T, "b": params["c"]}


def leaving(params, x):
    raise SystemExit(0)


def loud(params, x):
    print("by hand")
    return grads(params, x)


def writing(params, x):
    x -= x.mean(0)
    return grads(params, x)


def example(rng):
    return {"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}, rng.normal(size=(4, 3))


def several(W, b, x):
    return loss({"W": W, "b": b}, x)


def two(W, b, x):
    return tuple(grads({"W": W, "b": b}, x).values())


def by_name(W, b, x):
    return {"b": grads({"W": W, "b": b}, x)["b"]}


def barred(W, b, x):
    return dict(zip(("dW", "db"), two(W, b, x)))


def apart(seed):
    params, x = example(np.random.default_rng(seed))
    return params["W"], params["b"], x


fixed = example(np.random.default_rng(3))
single = np.ones(3)
alone = (single,)
nothing = ()


@jax.custom_vjp
def half(x):
    return x * x


half.defvjp(lambda x: (x * x, x), lambda x, bar: (x * bar,))


def lonely(x):  # it is finite at these arguments alone
    return float(np.sum(x)) if np.array_equal(x, single) else np.nan


def of_lonely(x):
    return np.ones(3)


def ruled(params, x):
    return half(params["W"]).sum() + jnp.tanh(x).sum()
"""


@pytest.fixture
def homework(tmp_path):
    file = tmp_path / "homework.py"
    file.write_text(HOMEWORK)
    return str(file)


@pytest.fixture
def run(homework, capsys):
    def run(function, *options):
        code = main(["check", f"{homework}:{function}", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


# Exit codes


def test_right_is_0(run):
    code, out, err = run("loss", "--by-hand", "grads")
    assert (code, err) == (0, "")
    assert "grads against loss: right" in out


def test_wrong_is_1_and_the_leaf_is_named(run):
    code, out, _ = run("loss", "--by-hand", "mean")
    assert code == 1
    assert "first in params.b" in out


def test_every_name_may_say_its_file(run, homework):
    options = ("--by-hand", f"{homework}:grads", "--args", f"{homework}:fixed", "--argnums", "0")
    assert run("loss", *options)[0] == 0


def test_undecidable_is_2(run):
    code, out, err = run("lonely", "--by-hand", "of_lonely", "--args", "alone")
    assert (code, err) == (2, "")
    assert "of_lonely against lonely: UNDECIDABLE" in out


def test_derivation_names_the_line(run):
    code, out, _ = run("loss", "--derivation", "lines")
    assert code == 1
    assert "lines against loss: WRONG, first in s" in out


def test_rules(run):
    code, out, _ = run("ruled", "--rules")
    assert code == 1
    assert "half" in out
    assert run("ruled", "--rules", "--allow", "half")[0] == 0
    code, out, _ = run("loss", "--rules")
    assert code == 2
    assert "no custom_vjp or custom_jvp rule was met" in out


def test_arguments_are_told_from_what_comes_back(run):
    code, out, _ = run("several", "--by-hand", "two", "--args", "apart")
    assert code == 0
    assert "gradients by W, b: --argnums chooses others" in out
    code, out, _ = run("several", "--by-hand", "by_name", "--args", "apart")
    assert code == 0
    assert "gradients by b:" in out


def test_argnums(run):
    assert run("several", "--by-hand", "two", "--args", "apart", "--argnums", "0", "1")[0] == 0
    assert run("several", "--by-hand", "two", "--args", "apart", "--argnums", "1")[0] == 1


def test_a_gradient_that_writes_into_its_arguments_gets_copies(run):
    """Or the loss would be asked at what was written."""
    code, out, _ = run("loss", "--by-hand", "writing")
    assert code == 1
    assert "params.W  wrong" in out


def test_names_of_gradients_are_understood(run):
    assert run("several", "--by-hand", "barred", "--args", "apart")[0] == 0


def test_a_later_change_of_the_file_is_seen(run, homework):
    assert run("loss", "--by-hand", "grads")[0] == 0
    Path(homework).write_text(HOMEWORK.replace("x.T @ s_bar, ", "x.T @-s_bar, "))  # as long as before
    assert run("loss", "--by-hand", "grads")[0] == 1


def test_what_lies_beside_the_file_can_be_imported(run, homework, tmp_path):
    (tmp_path / "beside_homework.py").write_text("factor = 1.0\n")
    Path(homework).write_text(HOMEWORK + "\nfrom beside_homework import factor\n")
    before = list(sys.path)
    assert run("loss", "--by-hand", "grads")[0] == 0
    assert sys.path == before


def test_settings_of_jax_are_left_alone(run, homework):
    told = "\nassert not jax.config.jax_enable_x64\nassert jax.config.jax_default_matmul_precision is None\n"
    Path(homework).write_text(HOMEWORK + told)
    with jax.enable_x64(False), jax.default_matmul_precision(None):
        assert run("loss", "--by-hand", "grads")[0] == 0


# JSON and pictures


def test_json_is_all_there_is_on_standard_output(run):
    code, out, err = run("loss", "--by-hand", "loud", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert [leaf["name"] for leaf in report["leaves"]] == ["params.W", "params.b"]
    assert "by hand" in err


def test_json_of_an_error(run):
    code, out, err = run("loss", "--by-hand", "nowhere", "--json")
    assert code == 2
    assert json.loads(out)["ok"] is False
    assert "nowhere" in err


@pytest.mark.parametrize("by_hand", ["grads", "mean"])
def test_picture(run, tmp_path, by_hand):
    picture = tmp_path / "errors.png"
    _, out, _ = run("loss", "--by-hand", by_hand, "--picture", str(picture))
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "picture: " in out


def test_a_picture_needs_no_window():
    """Nor what a notebook has set for windows, where it is not installed."""
    code = "from jaxnets.check._picture import empty_figure as f; f(1, 1); import os; assert os.environ['MPLBACKEND']"
    environment = os.environ | {"MPLBACKEND": "module://nowhere"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_picture_that_cannot_be_drawn(run, tmp_path):
    code, out, err = run("loss", "--by-hand", "grads", "--picture", str(tmp_path / "errors.xyz"))
    assert code == 2
    assert out == ""  # said before a long check, not after it
    assert "expected a file that ends with .png" in err
    code, _, err = run("loss", "--by-hand", "grads", "--picture", str(tmp_path / "no" / "errors.png"))
    assert code == 2
    assert "there is no folder" in err
    code, out, _ = run("loss", "--by-hand", "grads", "--json", "--picture", str(tmp_path / "no" / "errors.png"))
    assert (code, json.loads(out)["ok"]) == (2, False)


def test_picture_shows_what_there_is():
    wide = np.zeros((3, 1001))
    wide[1, 777] = np.nan
    leaves = [
        Leaf("right", "right", 0.0, 0.0, None, got=np.ones((2, 3, 4)), want=np.ones((2, 3, 4))),
        Leaf("nan", "wrong", np.inf, np.inf, (1, 777), got=wide, want=np.ones((3, 1001))),
        Leaf("missing", "wrong", np.inf, np.inf, None, (Cause("shape", "nothing came back", np.inf),), want=np.ones(3)),
        Leaf("$scalar_", "wrong", 2.0, 1.0, (), follows_from="nan", got=np.array(-1.0), want=np.array(1.0)),
        Leaf("empty", "right", 0.0, 0.0, None, got=np.ones((0, 3)), want=np.ones((0, 3))),
    ]
    figure = _picture._figure(Report("all kinds", leaves))
    assert [panel.get_title("left").split(":")[0] for panel in figure.axes[:5]] == [
        *("nan", "missing", "$scalar_", "right", "empty")
    ]
    assert "follows from nan" in figure.axes[2].get_title("left")
    drawn = [len(panel.images) for panel in figure.axes[:5]]
    assert drawn == [1, 0, 1, 1, 0]
    assert figure.axes[1].texts[0].get_text() == "nothing came back"
    colours = figure.axes[0].images[0].get_array()
    assert colours.shape[1] <= 200
    assert np.ma.getmaskarray(colours).sum() == 1  # one pixel is not a number
    many = _picture._figure(Report("many", [leaves[0]._replace(name=f"n{i}") for i in range(20)] + [leaves[1]]))
    assert "(12 of 21 leaves)" in many.get_suptitle()
    assert many.axes[0].get_title("left").startswith("nan: wrong")


# What it cannot take


BAD = {
    "no such function": (["loss", "--by-hand", "grad"], ["has no 'grad'", "did you mean 'grads'?", "mean"]),
    "no such arguments": (["loss", "--by-hand", "grads", "--args", "sample"], ["--args", "has no 'sample'"]),
    "no such file": (["loss", "--by-hand", "else.py:grads"], ["no such file", "else.py"]),
    "no function": (["loss", "--by-hand", "fixed"], ["--by-hand", "no function but tuple"]),
    "no tuple": (["loss", "--by-hand", "grads", "--args", "single"], ["--args", "write (x,)", "ndarray"]),
    "no arguments": (["loss", "--by-hand", "grads", "--args", "nothing"], ["nothing is empty"]),
    "no way": (["loss"], ["--by-hand, --derivation and --rules", "got none"]),
    "two ways": (["loss", "--by-hand", "grads", "--rules"], ["one of", "--by-hand and --rules"]),
    "raising": (["loss", "--by-hand", "raising"], ["by_hand raised", "homework.py line 28", "in raising"]),
    "leaving": (["loss", "--by-hand", "leaving"], ["ended", "exit code 0"]),
    "a number too large": (["loss", "--by-hand", "grads", "--argnums", "7"], ["argnums", "2 arguments"]),
    "no colon": (["loss", "--by-hand", "other.py"], ["expected FILE.py:name", "'other.py'"]),
    "no scalar": (["raising", "--by-hand", "grads", "--args", "fixed"], ["raised"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(run, name):
    arguments, told = BAD[name]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    for words in told:
        assert words in err
    assert len(err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n", "line 1"),
        ("import jax\n\nvalue = undefined_name\n", "line 3"),
        ("import not_there\n", "not_there"),
        ("import sys\nsys.exit(0)\n", "ended"),
        ("", "it has no functions"),
        ("\0", "no Python"),
    ],
)
def test_bad_files(run, homework, text, told):
    Path(homework).write_text(text)
    code, out, err = run("loss", "--by-hand", "grads")
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnm"], "expected FILE.py:function, or of heads, textconv"),
        (["--by-hand", "a.py:f"], "--by-hand needs a function"),
        (["nowhere.py:f", "--rules"], "no such file"),
        (["rnn", "a.py:f", "--rules"], "one function at a time"),
        (["rnn", "--picture", "a.png"], "--picture needs"),
        (["--worksheets", "--picture", "a.png"], "--picture needs"),
    ],
)
def test_bad_targets(capsys, arguments, told):
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_unknown_options_and_commands(capsys):
    assert main(["check", "--nothing"]) == 2
    assert "--nothing" in "".join(capsys.readouterr())
    assert main(["nothing"]) == 2
    assert "no such command: 'nothing'" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "check" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["tyro", "matplotlib"])
def test_what_is_missing_is_named(run, monkeypatch, tmp_path, missing):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for module in [m for m in sys.modules if m.startswith(("jaxnets.cli.check", missing))]:
        monkeypatch.delitem(sys.modules, module)
    code, _, err = run("loss", "--by-hand", "grads", "--picture", str(tmp_path / "a.png"))
    assert code == 2
    assert missing in err
    assert "pip install 'jaxnets[cli]'" in err
    assert len(err.splitlines()) == 1


# Tables of our own


def test_agreement(capsys):
    assert main(["check", "gated"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all right"
    assert lines[2].split()[0] == "gated"
    assert len(lines) == 2 + 7 + 1


def test_agreement_as_json(capsys):
    assert main(["check", "gated", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert {row["net"] for row in found["rows"]} == {"gated"}


def test_agreement_that_fails(capsys, monkeypatch):
    monkeypatch.setitem(agreement.LIMITS, "float32", 1e-9)
    assert main(["check", "gated"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert out.splitlines()[-1].endswith(" wrong")


def test_every_net_is_in_the_table():
    named = {net.split(".")[0].split(",")[0] for net in agreement.nets(np.random.default_rng(0))}
    assert named == set(agreement.NETS)


def test_a_reader_who_has_enough_ends_it_quietly(run, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(builtins, "print", closed)
    assert run("loss", "--by-hand", "grads") == (0, "", "")


def test_ctrl_c_is_a_line(run, homework):
    Path(homework).write_text(HOMEWORK + "\ndef pressed(params, x):\n    raise KeyboardInterrupt\n")
    assert run("loss", "--by-hand", "pressed") == (130, "", "jaxnets: interrupted\n")


CLOSED = "jaxnets: standard output is closed; send it to a file, or to /dev/null\n"
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UNREADABLE = ["train", "rnn", "--json", "--epochs", "x"]
SHELLS = {  # redirections, environment, arguments; exit code, and what standard output and errors begin with
    "no output": (">&-", {}, ["--help"], 2, "", CLOSED),
    "no room": ("> /dev/full", {}, ["--help"], 2, "", "jaxnets: standard output: No space left on device\n"),
    "nobody hears errors": ("2>&-", {}, ["nothing"], 2, "", ""),
    "ASCII": ("", {"PYTHONIOENCODING": "ascii"}, ["--help"], 0, "usage: jaxnets COMMAND \\u2026", ""),
    "POSIX": ("", POSIX, ["check", "--help"], 0, "usage: jaxnets check", ""),
    "JSON of what cannot be read": ("", {}, UNREADABLE, 2, '{"ok": false, "error": "', "jaxnets: "),
}  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="such a shell is not here")
@pytest.mark.parametrize("name", SHELLS)
def test_unusual_surroundings(name):
    redirection, environment, arguments, code, out, err = SHELLS[name]
    command = f'exec "$0" -m jaxnets "$@" {redirection}'
    found = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == code, found.stderr
    assert found.stdout.startswith(out)
    assert found.stderr.startswith(err)
    assert "Traceback" not in found.stderr
    if not err:
        assert found.stderr == ""


def test_help_from_the_shell():
    found = subprocess.run(
        [sys.executable, "-m", "jaxnets", "check", "--help"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert "jaxnets check homework.py:loss --by-hand" in found.stdout
    assert found.stderr == ""
