"""How the tests run JAX: eight host devices, x64 available, nothing promoted in silence.

Products are asked for at full precision, whatever the platform's default is: a GPU or TPU rounds float32 products
coarser by default, and the tolerances here are those of the dtype, not of a device's habit. And rows that are added up
on a GPU are added in a fixed order, since some tests compare bits.

Programs are compiled quickly rather than well: each runs once, on a few numbers, and compiling was most of the suite's
time. What users' programs compute, compiled as they are by default, is what `python -m jaxnets check` tells.
"""

import gc
import os
from fnmatch import fnmatchcase
from importlib.metadata import version

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_gpu_deterministic_ops=true",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # there are as many workers as cores
        # Later versions have no such option, and refuse it.
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    ]
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_traceback_in_locations_limit", 0)  # a tenth of the time to compile, and no test reads them


# What `pytest` leaves out, `pytest -m slow` runs, and CI runs on one interpreter: endurance, rather than coverage.
SLOW = {
    "test_rules.py::*-more]": "the rules at three more draws of numbers each: the programs are those of the first two",
    "test_mesh.py::*-more]": "nets on further numbers of devices, which is what others are tried on",
    "test_check_asked.py::*within_its_tolerance*": "solvers at several tolerances; quick tests have a right one that "
    "halves an interval, and wrong ones",
    "test_check_asked.py::*[[]three turns*": "a solver's rule wrong in further ways; quick tests have two",
    "test_check_asked.py::*[[]a little*": "a solver's rule wrong in further ways; quick tests have two",
    "test_check_asked.py::test_in_float32_too": "the same solvers in float32",
    "test_check_random.py::*[[]more]": "a hundred random programs; the quick test draws two",
    "test_check_rules.py::test_our_own_rules*": "the checker over all rules of our nets, which other quick tests hold "
    "against autodiff, oracles and differences",
    "test_check_causes.py::test_a_mutant_of_each_kind*[[][s-z]*": "mutants of further kinds; quick tests have "
    "half of the kinds",
    "test_check_causes.py::test_no_right_function*[[]?5]": "further right functions; quick tests have every tenth",
    "test_guides.py::*-as it stands]": "their examples on all of their steps and epochs",
    "test_guides.py::test_messages_from_the_shell": "a minute of training",
    "test_train.py::test_killed_from_outside_at_fifty_moments": "fifty runs, killed by a signal; a quick test ends one "
    "at each of its operations on files",
    "test_cli_train.py::test_killed_without_a_word": "a run in a process of its own, killed and gone on with; a quick "
    "test does so in its own process",
    "test_cli_train.py::test_by_hand_and_by_autodiff*[[][!r]*": "the same for the other nets",
    "test_cli_train.py::test_completion[[][!b]*": "further shells",
    "test_cli_train.py::test_ctrl_c_in_the_first_seconds*[[][!0]*": "further moments",
    "test_cli_train.py::test_ctrl_c_in_the_first_seconds*0.[18]*": "further moments",
    "test_check_asked.py::*what_they_lead_to[[]False]": "one more wrong solver",
    "test_cli_train.py::test_demo": "the demo from end to end; its parts have tests of their own",
    "test_processes.py::test_[!f]*": "two or three real processes for each test, some of which wait for one that never "
    "comes; a quick test, `test_from_the_shell`, has two that go well",
    "test_homework.py::*": "ten thousand differences, in a process that compiles as users' do",
    "test_benchmarks.py::test_contestants_agree*": "a smoke run of a benchmark",
    "test_benchmarks.py::test_gradients_agree*": "a smoke run of a benchmark",
    "test_benchmarks.py::test_epochs_train_the_same_net": "a smoke run of a benchmark",
    "test_benchmarks.py::test_on_any_number_of_devices": "a smoke run of a benchmark",
    "test_benchmarks.py::test_memory_grows_slower_than_the_root": "a smoke run of a benchmark, of a million steps",
    "test_benchmarks.py::test_the_model_of_a_step_over_devices": "a smoke run of a benchmark",
    "test_benchmarks.py::test_calls_without_jit": "a smoke run of a benchmark",
    "test_benchmarks.py::test_sweep": "a smoke run of a benchmark",
}


@pytest.fixture
def ordinary_settings():
    """For functions that are written as users write theirs: ranks and dtypes are promoted."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """What one file compiled is of no use to the next, and asking for ever more memory takes time."""
    yield
    jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        test = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        for which, why in SLOW.items():
            if fnmatchcase(test, which):
                item.add_marker(pytest.mark.slow(reason=why))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it again at each of its rounds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
