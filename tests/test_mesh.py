"""Training on several devices comes to what one device comes to, to the rounding of sums in another order."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import programs
from helpers import assert_close, assert_same, tolerance
from jaxnets import dense, gated, rnn, textconv, train

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
N, T = 22, 7
LENGTHS = RNG.integers(1, T + 1, N)
WORDS = RNG.integers(0, 12, (N, T))
X = RNG.normal(size=(N, T, 3))
Y = RNG.integers(0, 4, N)
F64 = jnp.float64

NETS = {
    "dense": (dense.loss, dense.init(KEY, sizes=(3, 5, 4), dtype=F64), {"x": X[:, 0], "y": Y}),
    "gated": (gated.loss, gated.init(KEY, 3, 3, 4, dtype=F64), {"x": X[:, 0], "eta": X[:, 1], "y": Y % 2}),
    "rnn, last step": (rnn.loss, rnn.init(KEY, 3, 5, 4, dtype=F64), {"x": X, "y": Y, "lengths": LENGTHS}),
    "rnn, every step": (
        rnn.loss,
        rnn.init(KEY, 12, 5, 12, dtype=F64),
        {"x": WORDS, "y": np.roll(WORDS, -1, 1), "lengths": LENGTHS},
    ),
    "rnn, every step, weights": (
        rnn.loss,
        rnn.init(KEY, 12, 5, 12, dtype=F64),
        {"x": WORDS, "y": np.roll(WORDS, -1, 1), "lengths": LENGTHS, "weights": RNG.random((N, T))},
    ),
    "textconv": (
        textconv.loss,
        textconv.init(KEY, 4, (2, 3), 5, 4, vocab=12, dtype=F64),
        {"x": WORDS, "y": Y, "lengths": LENGTHS},
    ),
    "textconv, weights": (
        textconv.loss,
        textconv.init(KEY, 4, (2,), 5, 4, vocab=12, dtype=F64),
        {"x": WORDS, "y": Y, "weights": RNG.random(N)},
    ),
}


@pytest.fixture(autouse=True)
def ordinary_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def programs_are_kept(monkeypatch):
    programs.keep(monkeypatch)


def mesh_of(devices):
    if devices > jax.device_count():
        pytest.skip(f"{jax.device_count()} devices here")
    return jax.make_mesh((devices,), ("batch",), devices=jax.devices()[:devices]) if devices else None


DROPPED = partial(textconv.loss, drop=0.5)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02))


def trained(name, mesh, **options):
    loss, net, data = NETS[name]
    given = {"epochs": 2, "batch": 11, "seed": 1, "optimizer": OPTIMIZER} | options
    return train.fit(given.pop("loss", loss), net, data, mesh=mesh, **given)


def fit(name, devices, **options):
    return trained(name, mesh_of(devices), **options)


@cache
def fit_on_one(name):
    return fit(name, 0)


# 11 examples of a batch: shares are equal on one device alone, and of 8 each has one, with three left over.
def all_counts():
    for name, devices in itertools.product(NETS, (1, 2, 3, 4, 8)):
        quick = devices == 3 or name == "dense"
        yield pytest.param(name, devices, id=f"{name}-{devices}" + ("" if quick else "-more"))


@pytest.mark.parametrize(("name", "devices"), list(all_counts()))
def test_as_on_one_device(name, devices):
    one, many = fit_on_one(name), fit(name, devices)
    assert_close(many.params, one.params, 100 * tolerance(F64))  # Adam divides by what is small
    losses = [[entry["loss"] for entry in fitted.history] for fitted in (many, one)]
    np.testing.assert_allclose(*losses, rtol=1e-12)


@pytest.mark.parametrize("batch", [3, 16])  # fewer examples than devices, and shares that are equal
def test_any_batch(batch):
    assert_close(fit("rnn, every step", 8, batch=batch).params, fit("rnn, every step", 0, batch=batch).params, 1e-11)


def test_rows_of_a_table():
    """A row that won on one device alone moves on all of them."""
    one, two = (fit("textconv", devices, rows={"E": "x"}) for devices in (0, 2))
    assert_close(two.params, one.params, 100 * tolerance(F64))


def test_every_device_has_the_same_bits():
    for a in jax.tree.leaves(fit("textconv", 8).state.params):
        first, *others = (np.asarray(shard.data) for shard in a.addressable_shards)
        assert len(others) == 7
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_half_precision_sums_wide():
    loss, net, data = NETS["dense"]
    net = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net)
    data = {"x": data["x"].astype(jnp.bfloat16), "y": data["y"]}
    found = [
        train.fit(loss, net, data, optax.sgd(0.1), epochs=1, batch=22, mesh=mesh_of(devices)).params
        for devices in (0, 8)
    ]
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(found[1], found[0], tolerance(jnp.bfloat16))


def test_goes_on_with_another_number_of_devices(tmp_path):
    data = NETS["dense"][2]
    options = {"validation": train.Validation(data, dense.predict, "accuracy")}
    fit("dense", 2, out=tmp_path, epochs=1, **options)
    resumed, whole = fit("dense", 4, out=tmp_path, epochs=3, **options), fit("dense", 0, epochs=3, **options)
    assert_close(resumed.state.params, whole.state.params, 1e-11)
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3]


def test_same_bits_again_and_by_blocks():
    assert_same(fit("rnn, last step", 2).params, fit("rnn, last step", 2, pieces=train.Pieces(1, 300)).params)


def test_dropout_belongs_to_example_and_step():
    """Also that of what a batch has beyond equal shares."""
    rows = {"E": "x"}
    one, four = (fit("textconv", devices, loss=DROPPED, rows=rows) for devices in (0, 4))
    assert_close(four.params, one.params, 1e-11)
    with pytest.raises(AssertionError):
        assert_close(four.params, fit("textconv", 4, rows=rows).params, 1e-3)


def test_fewer_examples_than_devices():
    """All of them are computed by each device, rows of a table too."""
    one, four = (fit("textconv", devices, batch=3, rows={"E": "x"}) for devices in (0, 4))
    assert_close(four.params, one.params, 1e-11)


def test_a_loss_of_ones_own_that_drops():
    """It takes a key for each example, or is refused on a mesh."""
    _, net, data = NETS["dense"]

    def loss(p, x, y, key):
        z = x @ p.W[0] + p.b[0]
        kept = jax.vmap(lambda one: jax.random.bernoulli(one, 0.5, z.shape[1:]))(key)
        return optax.softmax_cross_entropy_with_integer_labels((z * kept) @ p.W[1] + p.b[1], y).mean()

    def by_one(p, x, y, key):
        return loss(p, x, y, jax.random.split(key, len(x)))

    run = partial(train.fit, params=net, data=data, optimizer=optax.sgd(0.1), epochs=2, batch=5)
    whole = run(loss)
    assert_close(run(loss, mesh=mesh_of(2)).params, whole.params, 1e-11)
    assert_same(run(by_one).params, whole.params)
    with pytest.raises(TypeError, match=r"fit: loss must be one that takes a key for each example.*jax\.vmap"):
        run(by_one, mesh=mesh_of(2))


def test_scores_by_all_devices():
    _, net, data = NETS["rnn, every step"]
    spread = train._mesh.replicated(net, mesh_of(4))
    for batch in (3, 100):
        found, one = (train.scores(rnn.loss, None, params, data, batch=batch) for params in (spread, net))
        assert found == one
    np.testing.assert_array_equal(
        train.predictions(partial(rnn.predict, every_step=True), spread, data, 3),
        train.predictions(partial(rnn.predict, every_step=True), net, data, 3),
    )


def test_a_loss_that_knows_nothing_of_devices():
    """Autodiff of a scan that starts from plain zeros, which `shard_map` with its checks would refuse."""
    _, net, data = NETS["rnn, last step"]

    def loss(p, x, y):
        h, _ = jax.lax.scan(
            lambda h, x_t: (jnp.tanh(x_t @ p.U + h @ p.W), None), jnp.zeros((len(x), 5)), x.swapaxes(0, 1)
        )
        return optax.softmax_cross_entropy_with_integer_labels(h @ p.V, y).mean()

    data = {"x": data["x"], "y": data["y"]}
    one, two = (
        train.fit(loss, net, data, optax.sgd(0.1), epochs=1, batch=10, mesh=mesh_of(devices)) for devices in (0, 2)
    )
    assert_close(two.params, one.params, tolerance(F64))


def test_what_comes_out_is_as_usual():
    """Whatever kind of axes the mesh has; with data that lie on one device, and with arrays of one device beside;
    operation by operation (the smallest net, for each is compiled) and under `jit`."""
    for name, transform in (("textconv", jax.jit), ("dense", lambda f: f)):
        loss, _, data = NETS[name]
        params, grad = fit(name, 2).params, jax.grad(loss)
        want = jax.jit(grad)(jax.tree.map(np.asarray, params), **data)
        assert_close(transform(grad)(params, **data), want, tolerance(F64))
    there = jax.device_put(data, jax.devices()[0])
    assert train.scores(loss, None, params, there, batch=5) == train.scores(loss, None, params, data, batch=5)
    mixed = params._replace(b=(jnp.asarray(np.asarray(params.b[0])), params.b[1]))
    assert_close(train.scores(loss, None, mixed, data), train.scores(loss, None, params, data), tolerance(F64))
    on_one = train.fit(loss, params, data, optax.sgd(0.1), epochs=1, batch=11).params
    for pieces in (train.Pieces(), train.Pieces(budget=300)):
        two = train.fit(loss, params, there, optax.sgd(0.1), epochs=1, batch=11, mesh=mesh_of(2), pieces=pieces).params
        assert_close(two, on_one, tolerance(F64))


@pytest.mark.parametrize("name", ["dense", "rnn, every step, weights"])
def test_a_loss_that_is_no_mean_is_refused(name):
    """A sum over examples would come out as a mean of sums."""
    loss, net, data = NETS[name]
    options = {"epochs": 1, "batch": 8, "mesh": mesh_of(2)}
    with pytest.raises(ValueError, match=r"loss must be a mean over examples.* got another kind of loss"):
        train.fit(partial(loss, reduction="sum"), net, data, optax.sgd(0.1), **options)


WIDE = {
    "rnn": (
        rnn.loss,
        rnn.init(KEY, 3, 64, 4, dtype=F64),
        rnn.Params(U=P(None, "h"), W=P(None, "h"), b=P("h"), V=P("h", None), c=P()),
        X,
    ),
    "dense": (
        dense.loss,
        dense.init(KEY, sizes=(3, 64, 64, 4), dtype=F64),
        dense.Params(W=(P(None, "h"), P("h", None), P()), b=(P("h"), P(), P())),
        X[:, 0],
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_hidden_units_split_over_devices(name):
    """By annotations alone: each device has its part of the parameters, and of the gradient."""
    loss, net, specs, x = WIDE[name]
    mesh = jax.make_mesh((4,), ("h",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    split = jax.device_put(net, shardings)
    x, y = jax.device_put((x, Y), NamedSharding(mesh, P()))
    f = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings)).lower(split, x, y).compile()
    alone = jax.jit(jax.value_and_grad(loss)).lower(net, np.asarray(x), np.asarray(y)).compile()
    assert_close(f(split, x, y), alone(net, np.asarray(x), np.asarray(y)), tolerance(F64))
    there, whole = f.memory_analysis(), alone.memory_analysis()
    assert there.argument_size_in_bytes < whole.argument_size_in_bytes / 2
    assert there.output_size_in_bytes < whole.output_size_in_bytes / 2


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (2, r"mesh must be a mesh of devices, as jax.make_mesh.*got int"),
        (((2, 2), ("a", "b")), "mesh must be a mesh of one axis; got axes a, b"),
    ],
)
def test_what_is_no_mesh_of_one_axis(mesh, message):
    loss, net, data = NETS["dense"]
    mesh = jax.make_mesh(*mesh) if isinstance(mesh, tuple) else mesh
    with pytest.raises((TypeError, ValueError), match=message):
        train.fit(loss, net, data, optax.sgd(0.1), epochs=1, mesh=mesh)
