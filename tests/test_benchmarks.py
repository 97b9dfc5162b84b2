"""The benchmarks compute the same thing in every contestant, keep what they measured, and go on where they stopped."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import dense, devices, eager, epochs, gated, memory, rnn, scaling, sweep, textconv, timing
from helpers import assert_close, tolerance

WORKS = {
    "rnn, last step": lambda: rnn.at(6, 2, 3, 4, False),
    "rnn, every step, in a scan": lambda: rnn.at(6, 2, 3, 4, True)._replace(in_loop=True),
    "textconv": lambda: textconv.at(2, 9, 5, 3, 4, True),
    "textconv, tokens, in a scan": lambda: textconv.of_tokens(2, 9, 5, (2, 3), 4, 7)._replace(in_loop=True),
    "gated": lambda: gated.at(6, 4, 2, 3),
    "dense": lambda: dense.at(3, (4, 5, 10)),
}


@pytest.fixture(autouse=True)
def ordinary_settings():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", WORKS)
def test_contestants_agree(name):
    """Or `contestants` raises. Ours is the first."""
    found = list(timing.contestants(WORKS[name]()))
    assert found[0].framework == timing.OURS
    assert {"jax"} <= {c.framework for c in found}
    assert all(c.bytes for c in found if c.framework != "torch")


@pytest.mark.parametrize("name", [name for name in WORKS if "scan" not in name])
def test_gradients_agree(name):
    """Of every form that is timed, with ours."""
    work = WORKS[name]()
    grads = {}
    for (who, _), loss in work.losses.items():
        program, args = timing._step(loss, work)
        grads[who] = jax.jit(program)(*args)[1]
    for found in grads.values():
        assert_close(found, grads[timing.OURS], tolerance(jnp.float32))
    assert timing._eps_off(work, grads[timing.OURS]) < 64


def test_a_contestant_that_computes_something_else_is_told():
    work = WORKS["dense"]()
    losses = work.losses | {("twice", "jax"): lambda *args: 2 * dense.plain(*args)}
    with pytest.raises(RuntimeError, match="dense 3,4/5/10 : twice computes the loss"):
        list(timing.contestants(work._replace(losses=losses)))


def test_turns():
    calls = []
    times = timing.interleaved([lambda: calls.append("a"), lambda: calls.append("b")], 3, 0.0)
    assert "".join(calls) == "ab" + "aabb" * 2  # once uncounted, once counted; all have run before the first round
    assert times.shape == (3, 2)


def test_results_are_kept_and_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "works", lambda *_: [WORKS["gated"](), WORKS["dense"]()])
    monkeypatch.setattr(bench, "gemm_rate", lambda: 1e9)
    row = {"median_ms": 1.0, "min_ms": 1.0, "ratio": 1.0, "bytes": 8, "compile_s": 0.1}
    measured = []

    def measure(work, *_):
        measured.append(work.net)
        rivals = [{"name": f, "framework": f, **row} for f in ("ours", "jax")]
        what = {"net": work.net, "size": work.size, "what": work.what, "in_loop": work.in_loop}
        return what | {"operations": 1e6, "contestants": rivals, "rounds": 7}

    monkeypatch.setattr(bench, "measured", measure)
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["benchmarks", "--out", str(tmp_path)])
        assert bench.main() == 0
    assert measured == ["gated", "dense"]
    (results,) = tmp_path.glob("speed-*.json")
    assert [r["net"] for r in json.loads(results.read_text())] == ["gated", "dense"]
    assert results.with_suffix(".png").stat().st_size > 5_000
    assert "gated" in capsys.readouterr().out


def test_an_unknown_net_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "gru"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no net 'gru'; there are rnn" in capsys.readouterr().err


def test_the_floor_is_a_formula():
    """h W, x U and what they take backward: 2·B·T·H·(3H + 2D) for the recurrent net."""
    assert rnn.at(6, 2, 3, 4, False).operations == 2 * 6 * 2 * 4 * (3 * 4 + 2 * 3)
    assert np.isclose(gated.at(6, 4, 2, 3).operations, 2 * min(2 * 6 * 6 + 3 * 24, 2 * 6 * 4 * 5))


def test_epochs_train_the_same_net():
    """Ours by rows of the table, the plain forms by the whole table: the same losses, step by step."""
    from jaxnets import textconv as net

    rng = np.random.default_rng(0)
    given = {"x": rng.integers(0, 11, (20, 9)).astype(np.int32), "y": rng.integers(0, 2, 20).astype(np.int32)}
    params = net.init(jax.random.key(0), embed=3, widths=(2, 3), filters=4, outputs=2, vocab=11)
    order = rng.integers(0, 20, (3, 20)).astype(np.int32)
    losses = {}

    def seen(name, loss):
        def kept(params, x, y):
            value = loss(params, x, y)
            jax.debug.callback(lambda v: losses.setdefault(name, []).append(float(v)), value)
            return value

        return kept

    everybody = [
        ("ours", net.loss),
        *((n, lambda p, x, y, f=f: textconv.plain(f, p, x, y)) for n, f in textconv.FORMS.items()),
    ]
    contestants = [
        epochs.Contestant(n, epochs._jax(seen(n, f), params, given, {"E": "x"} if n == "ours" else {}), 3)
        for n, f in everybody
    ]
    for contestant in contestants:
        contestant.run(order)
    jax.effects_barrier()
    for found in losses.values():
        np.testing.assert_allclose(found, losses["ours"], rtol=1e-5)
    found = epochs.measured(epochs.Task(20, 5, contestants), rounds=2)
    assert found["ratios"]["ours"] == 1
    assert found["steps"] == 4


@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device here")
def test_on_any_number_of_devices(monkeypatch):
    """Everybody computes the same loss and gradient; each is timed."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    contestants = devices.steps(4, 5, 3, 6, mesh)
    assert len(contestants) == 6
    first, *others = (run() for run in contestants.values())
    for other in others:
        assert_close(other, first, tolerance(jnp.float32))
    row = devices.measured("step", contestants, 0.0)
    assert row["devices"] == 2
    assert row["of ours on one"] > 0
    monkeypatch.setattr(devices, "EPOCH", (24, 2, 4, 3, 6))
    assert devices.measured("epoch", devices.epochs(mesh), 0.0)["of jax.grad on one"] > 0


def test_memory_grows_slower_than_the_root(tmp_path):
    """Bytes are counted, not timed, so that they can be held to it: from 10⁵ to 10⁶ steps less than the root of ten."""
    found, least = memory.rows((100_000, 1_000_000)), "ours, one state in √(T/3)"
    last = [row["bytes"] for row in found if row["what"] == "last step"]
    assert last[1][least] < 10**0.5 * last[0][least]
    assert all(row["bytes"][least] * 20 < row["bytes"]["jax.grad"] for row in found)
    assert all(row["bytes"]["ours"] * 2 < row["bytes"]["jax.grad"] for row in found)
    memory.draw(found, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_the_model_of_a_step_over_devices(monkeypatch, tmp_path):
    fit = {"launch": 1.0, "example": 0.5}
    assert scaling.fitted([1, 2, 4], [1.5, 2.0, 3.0]) == pytest.approx((1.0, 0.5))
    assert scaling.fitted([1, 2, 4], [1.0, 3.0, 7.0])[0] == 0.0  # a launch takes no less than no time
    assert scaling.predicted(fit, (0.25, 0.01), 200, 16, 1) == 9.0
    # Four devices: four examples each, four messages of a quarter, one and a half times two seconds of bytes.
    assert scaling.predicted(fit, (0.25, 0.01), 200, 16, 4) == 1 + 2 + 1 + 3
    assert scaling.predicted(fit, (0.0, 0.0), 0, 17, 4) == 1 + 0.5 * 5  # what is left over is computed by all
    monkeypatch.setattr(scaling, "WORKS", {"4,3,6": (4, 3, 6)})
    monkeypatch.setattr(scaling, "BATCHES", (2, 4))
    monkeypatch.setattr(scaling, "LENGTHS", (10, 1000))
    monkeypatch.setattr(scaling, "of_a_core", lambda: {"4,3,6": {2: 0.1, 4: 0.2}})  # another process has its own WORKS
    found = json.loads(json.dumps(scaling.measure()))
    assert "4,3,6" in scaling.told(found)
    assert scaling.gain(found["works"]["4,3,6"], 1, weak=True) == 1
    scaling.draw(found, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_calls_without_jit(monkeypatch, capsys):
    monkeypatch.setattr(eager, "CALLS", 1)
    eager.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 12
    assert all(float(figure) > 0 for row in rows for figure in row.split()[2:5])


def test_sweep(tmp_path, capsys, monkeypatch):
    """The same numbers draw the same sizes; rows that are kept are not measured again."""
    assert sweep.drawn("rnn", 3, 0).title == sweep.drawn("rnn", 3, 0).title != sweep.drawn("rnn", 4, 0).title
    for net in sweep.NETS:
        assert sweep.drawn(net, 5, 0).operations <= sweep.OPERATIONS
    monkeypatch.setattr(sweep, "drawn", lambda net, number, seed: rnn.at(6 + number, 2, 3, 4, False))
    arguments = ["sweep", "rnn", "--sizes", "2", "--saves", "--out", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr("sys.argv", arguments)
    sweep.main()
    first, rows = capsys.readouterr().out, (tmp_path / "rows.jsonl").read_text()
    assert "2 sizes: autodiff's best takes" in first
    assert {c["name"] for c in json.loads(rows.splitlines()[0])["contestants"]} >= {"ours", "save=all"}
    sweep.main()
    assert (capsys.readouterr().out, (tmp_path / "rows.jsonl").read_text()) == (first, rows)
