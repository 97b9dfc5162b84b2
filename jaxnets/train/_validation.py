"""What is scored after each epoch, and what decides which parameters are the best."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxnets._shapes import Call
from jaxnets.train._checks import refuse_bad_data
from jaxnets.train._examples import buckets_of, size
from jaxnets.train._keys import Keys, needs_key
from jaxnets.train._run import Run
from jaxnets.train._scores import check_predict, scores


@dataclass(frozen=True)
class Validation:
    """Data that are scored after each epoch, to keep the parameters of the best one.

    Args:
      data: as `fit` takes them.
      predict: the net's, for accuracy and, of two classes, the area under the curve (`scores`).
      monitor: which score decides: `"loss"`, the less the better, or `"accuracy"` or `"auc"`, the more.
      patience: stop after so many epochs without a better one.
      also: further data that are scored then, by name, and decide nothing: `{"training": …}`.
    """

    data: Any
    predict: Callable[..., Any] | None = None
    monitor: str = "loss"
    patience: int | None = None
    also: Mapping[str, Any] = field(default_factory=dict)


class Judge(NamedTuple):
    """A `Validation` that was checked; one without data judges nothing."""

    loss: Callable[..., Any]
    given: Any  # the parameters that the caller gave
    by_name: dict[str, list[dict[str, Any]]]  # data as buckets, those that decide under "validation"
    predict: Callable[..., Any] | None
    monitor: str
    patience: int | None

    @property
    def judges(self) -> bool:
        return "validation" in self.by_name

    def score(self, run: Run, entry: dict[str, float]) -> None:
        """Enter the scores of the run's parameters, and keep these where they are the best."""
        for name, data in self.by_name.items():
            found = scores(self.loss, self.predict, run.state.params, data)
            entry |= {f"{name}_{score}": value for score, value in found.items()}
            if not math.isfinite(found["loss"]):
                self._refuse(run, name, data, found["loss"])
            if name == "validation":
                self._decide(run, found)

    def _refuse(self, run: Run, name: str, data: list[dict[str, Any]], loss: float) -> None:
        for i, bucket in enumerate(data):
            which = name if len(data) == 1 else f"{name}[{i}]"
            refuse_bad_data(which, self.loss, self.given, bucket, np.arange(size(bucket)), Keys.NONE)
        run.diverged(f"the {name} loss after step {run.step} is {loss}")

    def _decide(self, run: Run, found: dict[str, float]) -> None:
        if self.monitor not in found:
            Call("fit").fail(ValueError, "monitor", f"one of the scores ({', '.join(found)})", repr(self.monitor))
        run.judge(found[self.monitor] if self.monitor == "loss" else -found[self.monitor])


def judge_of(call: Call, loss: Callable[..., Any], params: Any, validation: Any) -> Judge:
    """Of a `Validation`, of data alone, or of None; what cannot be scored is refused before the first step."""
    if validation is None:
        return Judge(loss, params, {}, None, "loss", None)
    asked = validation if isinstance(validation, Validation) else Validation(validation)
    call.choice("monitor", asked.monitor, "loss", "accuracy", "auc")
    patience = None if asked.patience is None else call.size("patience", asked.patience)
    if asked.monitor != "loss" and asked.predict is None:
        call.fail(ValueError, "predict", f"given where monitor is {asked.monitor!r}", None)
    if needs_key(loss):
        call.fail(TypeError, "loss", "one whose key has a default, for validation", "one that always needs a key")
    if not isinstance(asked.also, Mapping):
        call.fail(TypeError, "also", 'a dict of data by name, as {"training": …} is', type(asked.also).__name__)
    if "validation" in asked.also:
        call.fail(ValueError, "also", "names other than that of the validation set", "'validation'")
    named = {f"also[{name!r}]": data for name, data in asked.also.items()} | {"validation": asked.data}
    found = {name: buckets_of(call, name, loss, data) for name, data in named.items()}
    for name, buckets in found.items():
        if asked.predict is not None:
            check_predict(call, name, asked.predict, buckets)
    by_name = dict(zip([*asked.also, "validation"], found.values(), strict=True))
    return Judge(loss, params, by_name, asked.predict, asked.monitor, patience)
