"""Programs that runs share: most of the time of a test that trains is compiling the steps, the same ones each time."""

from functools import cache

from jaxnets.train import _fit, _steps


@cache
def _runner(loss, optimizer, rows, *rest):
    return _steps.runner(loss, optimizer, dict(rows), *rest)


def keep(monkeypatch):
    """From here on `train.fit` compiles the steps of one loss, optimizer and mesh once, for all runs of the process."""

    def runner(loss, optimizer, rows, *rest):
        return _runner(loss, optimizer, (*rows.items(),), *rest)

    monkeypatch.setattr(_fit, "runner", runner)


def forget():
    """What is run next is compiled anew."""
    _runner.cache_clear()
