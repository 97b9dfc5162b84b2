"""Random programs: the right gradient of each is called right, the same with one equation altered is not."""

import jax
import pytest

from benchmarks import random_programs


@pytest.mark.parametrize("count", [2, pytest.param(100, id="more")])
def test_no_alarm_and_no_pass(count):
    judged = []
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        random_programs.property_of(count, 7, judged.append)()
    assert len(judged) >= count
    assert sum(judged) >= count // 3  # a change of an equation need not change the gradient
