"""One process of several: trains every net of `test_mesh`, and keeps what came of it.

python of_processes.py HOST:PORT PROCESSES PROCESS FOLDER
"""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import conftest  # noqa: F401 (how JAX is run)
from jaxnets import rnn, train


def main(address, processes, process, folder):
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(address, int(processes), int(process), initialization_timeout=60)
    from test_mesh import NETS, trained

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    kept, losses = {}, {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name in NETS:
            fitted = trained(name, mesh)
            losses[name] = [entry["loss"] for entry in fitted.history]
            kept |= {f"{name} {i}": np.asarray(a) for i, a in enumerate(jax.tree.leaves(fitted.params))}
            assert all(a.is_fully_addressable for a in jax.tree.leaves(fitted.state))
        by_rows = trained("textconv", mesh, rows={"E": "x"}, pieces=train.Pieces(1, 200))
        kept |= {f"rows {i}": np.asarray(a) for i, a in enumerate(jax.tree.leaves(by_rows.params))}
        _, net, data = NETS["rnn, every step"]
        there = train._mesh.replicated(net, mesh)
        for batch in (3, 100):  # more batches than processes, and fewer
            predict = partial(rnn.predict, every_step=True)
            kept[f"predictions {batch}"] = train.predictions(predict, there, data, batch)
            kept[f"scores {batch}"] = np.array(list(train.scores(rnn.loss, predict, there, data, batch).values()))
        watched = trained("dense", mesh, epochs=9, watch=lambda p: p.epoch == 2 and int(process) == int(processes) - 1)
        kept["stopped"] = np.array(len(watched.history))
        last = int(process) == int(processes) - 1
        kept |= {
            "other options": refused(lambda: trained("dense", mesh, epochs=2 + last)),
            "other rate": refused(lambda: trained("dense", mesh, optimizer=optax.sgd(0.1 + last))),
            "one fails": refused(lambda: trained("dense", mesh, watch=lambda _: {}["no such"] if last else False)),
        }
    np.savez(Path(folder) / f"{process}.npz", **kept, losses=np.array(list(losses.values())))
    jax.distributed.shutdown()


def refused(run):
    """What is said of a run that cannot be; of processes that go on nothing is waited for."""
    try:
        run()
    except (ValueError, KeyError, train.Lost) as error:
        return np.array(f"{type(error).__name__}: {error}")
    return np.array("")


if __name__ == "__main__":
    main(*sys.argv[1:])
