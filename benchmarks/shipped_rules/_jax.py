"""JAX's own."""

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jax.scipy import special, stats

from benchmarks.shipped_rules._entry import Entry, between, matrix, normal


def _softmax(x):
    with jax.softmax_custom_jvp(True):  # off by default: the softmax without a rule
        return jax.nn.softmax(x)


def _newton(a):
    """The square root of `a` as a root found by Newton's steps; the rule differentiates through the solution only."""

    def solve(g, x):
        return jax.lax.fori_loop(0, 30, lambda _, x: x - g(x) / (2 * x), x)

    return jax.lax.custom_root(lambda x: x * x - a, jnp.ones_like(a) * 2, solve, lambda g, y: y / g(jnp.ones_like(y)))


def _odeint(y, k):
    return odeint(lambda y, t, k: jnp.stack([y[1], -k * jnp.sin(y[0])]), y, jnp.linspace(0.0, 1.0, 4), k)


_OLD = jax.__version_info__ < (0, 12)  # two functions of JAX had rules until then
ENTRIES = [
    Entry("jax", "nn.relu", jax.nn.relu, normal((6, 4))),
    Entry("jax", "nn.relu6", jax.nn.relu6, normal((6, 4), scale=5)),
    Entry("jax", "nn.softplus", jax.nn.softplus, normal((6, 4))),
    Entry("jax", "nn.softmax, with its rule", _softmax, normal((6, 4))),
    Entry("jax", "nn.log1mexp", jax.nn.log1mexp, between((0.1, 3))),
    Entry("jax", "numpy.logaddexp2", jnp.logaddexp2, normal((7,), (7,))),
    Entry("jax", "numpy.i0", jnp.i0, normal((7,))),
    Entry("jax", "numpy.linalg.slogdet, 2×2", jnp.linalg.slogdet, matrix(3, 2, 2)),
    Entry("jax", "numpy.linalg.slogdet", jnp.linalg.slogdet, matrix(2, 4, 4)),
    Entry("jax", "numpy.linalg.slogdet by qr", lambda a: jnp.linalg.slogdet(a, method="qr"), matrix(4, 4)),
    Entry("jax", "numpy.linalg.det", jnp.linalg.det, matrix(4, 4)),
    Entry("jax", "numpy.linalg.pinv", jnp.linalg.pinv, matrix(5, 3)),
    Entry("jax", "scipy.special.logit", special.logit, between((0.1, 0.9))),
    Entry("jax", "scipy.special.entr", special.entr, between((0.1, 2))),
    Entry("jax", "scipy.special.log_ndtr", special.log_ndtr, normal((7,))),
    Entry("jax", "scipy.special.zeta", special.zeta, between((2, 4), (1, 3))),
    Entry("jax", "scipy.special.expi", special.expi, between((0.5, 3))),
    Entry("jax", "scipy.special.sici", special.sici, between((0.5, 3))),
    Entry("jax", "scipy.special.poch", special.poch, between((1, 3), (1, 3))),
    Entry("jax", "scipy.special.hyp1f1", special.hyp1f1, between((1, 2), (2, 3), (0.2, 0.8), size=3)),
    Entry("jax", "scipy.special.owens_t", special.owens_t, normal((7,), (7,))),
    Entry("jax", "scipy.special.fresnel", special.fresnel, between((0.2, 3))),  # near 0 autodiff of its series is NaN
    Entry("jax", "scipy.stats.beta.logpdf", stats.beta.logpdf, between((0.2, 0.8), (1.5, 3), (1.5, 3))),
    *([Entry("jax", "numpy.sinc", jnp.sinc, normal((7,)))] if _OLD else []),
    Entry("jax", "numpy.logaddexp", jnp.logaddexp, normal((7,), (7,))),
    Entry("jax", "nn.hard_silu", jax.nn.hard_silu, normal((6, 4))),
    Entry("jax", "scipy.special.xlogy", special.xlogy, between((0.1, 2), (0.5, 2))),
    Entry("jax", "scipy.special.xlog1py", special.xlog1py, between((0.1, 2), (0.5, 2))),
    Entry("jax", "scipy.special.kl_div", special.kl_div, between((0.1, 2), (0.5, 2))),
    Entry("jax", "scipy.special.exp1", special.exp1, between((0.5, 3))),
    Entry("jax", "scipy.special.dawsn", special.dawsn, between((0.2, 3))),
    Entry("jax", "scipy.special.erfcx", special.erfcx, between((0.2, 3))),
    Entry("jax", "experimental.ode.odeint", _odeint, normal((2,), (), scale=0.7)),
    *([Entry("jax", "lax.custom_root", _newton, between((1, 3)))] if _OLD else []),
]
