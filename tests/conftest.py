"""How the tests run JAX: eight host devices, x64 available, nothing promoted in silence.

Products are asked for at full precision, whatever the platform's default is: a GPU or TPU rounds float32 products
coarser by default, and the tolerances here are those of the dtype, not of a device's habit. And rows that are added up
on a GPU are added in a fixed order, since some tests compare bits.

Programs are compiled quickly rather than well: each runs once, on a few numbers, and compiling was most of the suite's
time. What users' programs compute, compiled as they are by default, is what `python -m jaxnets check` tells.
"""

import os
from importlib.metadata import version

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_gpu_deterministic_ops=true",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Later versions have no such option, and refuse it.
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    ]
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
