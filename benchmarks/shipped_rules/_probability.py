"""Distributions, special functions, transport and geometry."""

import distrax
import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from distrax._src.utils import math as distrax_math
from e3nn_jax._src.utils.einsum import einsum as e3nn_einsum
from numpyro.distributions import util as numpyro_util
from ott.geometry import costs, pointcloud, regularizers
from ott.math import fixed_point_loop, matrix_square_root
from ott.math import utils as ott_math
from ott.solvers import linear
from ott.tools import soft_sort
from tensorflow_probability.substrates import jax as tfp

from benchmarks.shipped_rules._entry import Entry, between, normal, positive


def _sinkhorn(x, y):
    return linear.solve(pointcloud.PointCloud(x, y, epsilon=0.5), threshold=1e-6).reg_ot_cost


def _sinkhorn_potentials(x, y):
    return linear.solve(pointcloud.PointCloud(x, y, epsilon=0.5), threshold=1e-6).f


def _halves(x):
    """The square root of numbers, by a loop of Newton's steps that ends by its own judgement."""

    def body(i, const, state, compute_error):
        (y, _) = state
        new = (y + const / y) / 2
        return new, jnp.max(jnp.abs(new - y))

    def going(i, const, state):
        return state[1] > 1e-8

    start = (jnp.ones_like(x), jnp.array(1.0, x.dtype))
    return fixed_point_loop.fixpoint_iter_backprop(going, body, 1, 40, 1, x, start)[0]


def _spherical(x):
    algorithm = ("recursive", "dense", "custom_jvp")
    return e3nn.spherical_harmonics("1o+2e+3o", x, normalize=True, algorithm=algorithm).array


def _within(rng: np.random.Generator) -> tuple:
    """A point between two bounds, and an exponent other than −1."""
    low, high = rng.uniform(0.5, 1, 5), rng.uniform(2, 3, 5)
    return tuple(map(jnp.asarray, (low + (high - low) * rng.uniform(0.2, 0.8, 5), rng.uniform(0.3, 2, 5), low, high)))


tfm, tfd = tfp.math, tfp.distributions
TFP = "tensorflow-probability"
ENTRIES = [
    Entry("numpyro", "util.log1mexp", numpyro_util.log1mexp, between((-3, -0.1))),
    Entry("numpyro", "util.logdiffexp", numpyro_util.logdiffexp, between((1, 2), (0, 0.9))),
    Entry("numpyro", "util.gammaincinv", numpyro_util.gammaincinv, between((0.5, 3), (0.1, 0.9))),
    Entry("numpyro", "DoublyTruncatedPowerLaw.cdf", lambda x, a, low, high: dist.DoublyTruncatedPowerLaw(
        a, low, high).cdf(x), _within),
    Entry("numpyro", "DoublyTruncatedPowerLaw.icdf", lambda x, a, low, high: dist.DoublyTruncatedPowerLaw(
        a, low, high).icdf(x / 4), _within),
    Entry("distrax", "multiply_no_nan", distrax_math.multiply_no_nan, normal((5,), (5,))),
    Entry("distrax", "power_no_nan", distrax_math.power_no_nan, between((0.5, 2), (0.5, 2))),
    Entry("distrax", "VonMises.cdf", lambda x, m, k: distrax.VonMises(m, k).cdf(x),
          between((-1, 1), (-0.5, 0.5), (1, 4))),
    Entry("ott-jax", "math.norm", ott_math.norm, normal((6,))),
    Entry("ott-jax", "math.logsumexp", lambda a: ott_math.logsumexp(a, axis=1), normal((3, 4))),
    Entry("ott-jax", "math.softmin", lambda x: ott_math.softmin(x, 0.3), normal((6,))),
    Entry("ott-jax", "math.lambertw", ott_math.lambertw, between((0.2, 3))),
    Entry("ott-jax", "math.gen_ent", ott_math.gen_ent, between((0.2, 3))),
    Entry("ott-jax", "sqrtm", lambda a: matrix_square_root.sqrtm(a)[0], positive(3)),
    Entry("ott-jax", "sqrtm_only", lambda a: matrix_square_root.sqrtm_only(a), positive(3)),
    Entry("ott-jax", "inv_sqrtm_only", lambda a: matrix_square_root.inv_sqrtm_only(a), positive(3)),
    Entry("ott-jax", "Euclidean cost", costs.Euclidean(), normal((4,), (4,))),
    Entry("ott-jax", "RegTICost.h_legendre", costs.RegTICost(regularizers.L1(), lam=0.7).h_legendre, normal((5,))),
    Entry("ott-jax", "sinkhorn, cost", _sinkhorn, normal((5, 2), (4, 2))),
    # What a potential gains the other may lose, and the rule leaves out how the iterations settle that:
    #     f = lambda x: linear.solve(pointcloud.PointCloud(x, y, epsilon=0.5)).f.sum()
    # By differences its gradient is another; that of f[0] - f[1] is right.
    Entry("ott-jax", "sinkhorn, potentials", _sinkhorn_potentials, normal((5, 2), (4, 2)), right=False),
    Entry("ott-jax", "soft_sort", lambda x: soft_sort.sort(x, threshold=1e-5, epsilon=0.1), normal((5,))),
    Entry("ott-jax", "fixpoint_iter_backprop", _halves, between((0.5, 2))),
    Entry("e3nn-jax", "spherical_harmonics", _spherical, normal((2, 3))),
    Entry("e3nn-jax", "einsum", lambda a, b: e3nn_einsum("ij,jk->ik", a, b), normal((2, 3), (3, 2))),
    Entry(TFP, "math.lbeta", tfm.lbeta, between((0.5, 3), (0.5, 3))),
    Entry(TFP, "math.log_gamma_difference", tfm.log_gamma_difference, between((0.5, 3), (9, 12))),
    Entry(TFP, "math.lambertw", tfm.lambertw, between((0.2, 3))),
    Entry(TFP, "math.owens_t", tfm.owens_t, normal((7,), (7,))),
    Entry(TFP, "math.dawsn", tfm.dawsn, between((0.2, 3))),
    Entry(TFP, "math.erfcx", tfm.erfcx, between((0.2, 3))),
    Entry(TFP, "math.logerfc", tfm.logerfc, between((0.2, 3))),
    Entry(TFP, "math.log_cosh", tfm.log_cosh, normal((7,))),
    Entry(TFP, "math.log_sub_exp", tfm.log_sub_exp, between((1, 2), (0, 0.9))),
    Entry(TFP, "math.bessel_ive", lambda z: tfm.bessel_ive(1.0, z), between((0.5, 3))),
    Entry(TFP, "math.bessel_kve", lambda z: tfm.bessel_kve(1.0, z), between((0.5, 3))),
    Entry(TFP, "math.bessel_iv_ratio", lambda z: tfm.bessel_iv_ratio(1.0, z), between((0.5, 3))),
    Entry(TFP, "math.igammainv", tfm.igammainv, between((0.5, 3), (0.1, 0.9))),
    Entry(TFP, "math.betainc", tfm.betainc, between((0.7, 3), (0.7, 3), (0.1, 0.9))),
    Entry(TFP, "math.hpsd_logdet", tfm.hpsd_logdet, positive(3)),
    # The solution is made of the factor, and the matrix gets its gradient: right where one is made of the other, and
    # wrong where a factor is handed in:
    #     f = lambda a, l: tfm.hpsd_solvevec(a, jnp.array([1.0, 2.0]), cholesky_matrix=l).sum()
    #     jax.grad(f, (0, 1))(a, jnp.linalg.cholesky(a))
    Entry(TFP, "math.hpsd_solvevec", tfm.hpsd_solvevec, positive(3, (3,)), right=False),
    Entry(TFP, "math.hpsd_quadratic_form_solvevec", tfm.hpsd_quadratic_form_solvevec, positive(3, (3,))),
    Entry(TFP, "StudentT.cdf", lambda x, n: tfd.StudentT(n, 0.0, 1.0).cdf(x), between((0.2, 1.5), (2, 5))),
    Entry(TFP, "VonMises.cdf", lambda x, k: tfd.VonMises(0.0, k).cdf(x), between((-1, 1), (1, 4))),
    # The derivative by the two bounds is wrong, of `high` in its sign as well:
    #     f = lambda low, high: dist.DoublyTruncatedPowerLaw(1.0, low, high).log_prob(jnp.array(1.5))
    #     jax.grad(f, (0, 1))(jnp.array(1.0), jnp.array(2.0))
    Entry("numpyro", "DoublyTruncatedPowerLaw.log_prob", lambda x, a, low, high: dist.DoublyTruncatedPowerLaw(
        a, low, high).log_prob(x), _within, right=False),
]  # fmt: skip
