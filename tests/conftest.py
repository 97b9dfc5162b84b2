"""How the tests run JAX: two host devices, x64 available, nothing promoted in silence.

Products are asked for at full precision, whatever the platform's default is: a GPU or TPU rounds float32 products
coarser by default, and the tolerances here are those of the dtype, not of a device's habit. And rows that are added up
on a GPU are added in a fixed order, since some tests compare bits.
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
