"""Libraries that solve: linear systems, roots, differential equations, projections, Krylov spaces."""

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jaxopt
import lineax
import numpy as np
import optimistix
from jaxopt import projection
from matfree import decomp

from benchmarks.shipped_rules._entry import Draw, Entry, between, normal, positive


def _fixed_point(w, b):
    solver = optimistix.FixedPointIteration(rtol=1e-7, atol=1e-8)
    return optimistix.fixed_point(lambda y, args: jnp.tanh(args[0] @ y) / 2 + args[1], solver, b, (w, b)).value


def _root(a):
    solver = optimistix.Newton(rtol=1e-7, atol=1e-8)
    return optimistix.root_find(lambda y, a: y**3 + y - a, solver, jnp.ones_like(a), a).value


def _root_by_bisection(a):
    solver = optimistix.Bisection(rtol=1e-6, atol=1e-7)
    return optimistix.root_find(
        lambda y, a: y**3 + y - a, solver, jnp.array(0.5), a, options={"lower": -3.0, "upper": 3.0}
    ).value


def _least_squares(y, x):
    solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)
    fit = optimistix.least_squares(
        lambda c, data: c[0] * jnp.exp(c[1] * data[0]) - data[1], solver, jnp.array([1.0, 0.1]), (x, y)
    )
    return fit.value


def _minimise(a):
    solver = optimistix.BFGS(rtol=1e-4, atol=1e-5)
    return optimistix.minimise(lambda y, a: jnp.sum(jnp.cosh(y - a) + y**2), solver, jnp.zeros_like(a), a).value


def _diffeq(adjoint, controller=None):
    def f(y, k):
        field = diffrax.ODETerm(lambda t, y, k: jnp.stack([y[1], -k * jnp.sin(y[0])]))
        stepping = controller or diffrax.ConstantStepSize()
        solution = diffrax.diffeqsolve(
            field, diffrax.Tsit5(), 0.0, 1.0, 0.1, y, k, stepsize_controller=stepping, adjoint=adjoint
        )
        return solution.ys

    return f


def _saved(y, k):
    field = diffrax.ODETerm(lambda t, y, k: -k * y**3)
    at = diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 4))
    return diffrax.diffeqsolve(field, diffrax.Heun(), 0.0, 1.0, 0.05, y, k, saveat=at).ys


_PENDULUM = normal((2,), (), scale=0.7)


def _ridge(solver):
    """The weights of a ridge regression, by a solver that goes down the objective's gradient."""

    def f(X, y, penalty):
        start = jnp.zeros(X.shape[1], X.dtype)
        return solver(jaxopt.objective.ridge_regression).run(start, penalty, (X, y)).params

    return f


def _ridge_data(rng: np.random.Generator) -> tuple:
    return *normal((12, 3), (12,))(rng), jnp.asarray(rng.uniform(0.3, 1.0))


def _logistic(X, penalty):
    labels = (jnp.arange(X.shape[0]) % 3 == 0).astype(X.dtype)
    solver = jaxopt.LBFGS(jaxopt.objective.l2_multiclass_logreg, tol=1e-6, maxiter=200)
    return solver.run(jnp.zeros((X.shape[1], 2), X.dtype), penalty, (X, labels.astype(int))).params


def _steady(w, b):
    def T(y, w, b):
        return jnp.tanh(w @ y) / 2 + b

    return jaxopt.FixedPointIteration(T, tol=1e-6, maxiter=300).run(jnp.zeros_like(b), w, b).params


def _bisected(a):
    solver = jaxopt.Bisection(lambda y, a: y**3 + y - a, lower=-3.0, upper=3.0, check_bracket=False, tol=1e-6)
    return solver.run(None, a).params


def _projected(X, y):
    """Weights within the simplex, by projected gradients."""
    solver = jaxopt.ProjectedGradient(jaxopt.objective.least_squares, projection.projection_simplex, tol=1e-6)
    return solver.run(jnp.full(X.shape[1], 1 / X.shape[1], X.dtype), data=(X, y)).params


def _box_section(x, total):
    return projection.projection_box_section(x, (jnp.zeros_like(x), jnp.ones_like(x), jnp.ones_like(x), total))


def _box_cdqp(a, c):
    q = jaxopt.BoxCDQP(tol=1e-7)
    low, high = -jnp.ones_like(c), jnp.ones_like(c)
    return q.run(
        jnp.zeros_like(c), params_obj=(a @ a.T / 3 + jnp.eye(len(c), dtype=c.dtype), c), params_ineq=(low, high)
    ).params


def _lanczos(a, v):
    found = decomp.tridiag_sym(3, reortho="full")(lambda x, p: (p + p.T) @ x, v, a)
    return found.J_small


def _arnoldi(a, v):
    return decomp.hessenberg(3, reortho="full")(lambda x, p: p @ x, v, a).J_small


def _well_posed(rng: np.random.Generator) -> tuple:
    return jnp.asarray(rng.normal(size=(4, 4)) / 4), jnp.asarray(rng.normal(size=4))


def _curve(rng: np.random.Generator) -> tuple:
    x = np.linspace(0, 1, 8)
    return jnp.asarray(1.5 * np.exp(0.4 * x) + 0.1 * rng.normal(size=8)), jnp.asarray(x)


def _scalar(low: float, high: float) -> Draw:
    return lambda rng: (jnp.asarray(rng.uniform(low, high)),)


@eqx.filter_jit
def _solve(a, b):
    return lineax.linear_solve(lineax.MatrixLinearOperator(a), b, lineax.AutoLinearSolver(well_posed=True)).value


ENTRIES = [
    Entry("lineax", "two_norm", lineax.internal.two_norm, normal((6,))),
    Entry("lineax", "rms_norm", lineax.internal.rms_norm, normal((6,))),
    Entry("lineax", "max_norm", lineax.internal.max_norm, normal((6,))),
    Entry("lineax", "linear_solve", _solve, positive(4, (4,))),
    Entry("optimistix", "fixed_point", _fixed_point, _well_posed),
    Entry("optimistix", "root_find by Newton", _root, between((0.5, 2), size=3)),
    Entry("optimistix", "root_find by bisection", _root_by_bisection, _scalar(0.5, 2)),
    Entry("optimistix", "least_squares", _least_squares, _curve),
    Entry("optimistix", "minimise by BFGS", _minimise, normal((3,))),
    Entry("diffrax", "diffeqsolve, checkpointed", _diffeq(diffrax.RecursiveCheckpointAdjoint()), _PENDULUM),
    Entry("diffrax", "diffeqsolve, steps adapted", _diffeq(
        diffrax.RecursiveCheckpointAdjoint(), diffrax.PIDController(rtol=1e-5, atol=1e-7)), _PENDULUM),
    Entry("diffrax", "diffeqsolve, backsolve", _diffeq(
        diffrax.BacksolveAdjoint(), diffrax.PIDController(rtol=1e-7, atol=1e-9)), _PENDULUM),
    Entry("diffrax", "diffeqsolve, saved at times", _saved, normal((2,), (), scale=0.7)),
    Entry("jaxopt", "projection_simplex", projection.projection_simplex, normal((6,))),
    Entry("jaxopt", "projection_l1_ball", projection.projection_l1_ball, normal((6,))),
    Entry("jaxopt", "projection_sparse_simplex", lambda x: projection.projection_sparse_simplex(x, 3), normal((6,))),
    Entry("jaxopt", "projection_box_section", _box_section, lambda rng: (*normal((5,))(rng), jnp.asarray(1.3))),
    Entry("jaxopt", "prox_lasso", jaxopt.prox.prox_lasso, normal((6,))),
    Entry("jaxopt", "FixedPointIteration", _steady, _well_posed),
    Entry("jaxopt", "GradientDescent, ridge", _ridge(
        lambda objective: jaxopt.GradientDescent(objective, tol=1e-6, maxiter=2000)), _ridge_data),
    Entry("jaxopt", "BFGS, ridge", _ridge(lambda objective: jaxopt.BFGS(objective, tol=1e-6)), _ridge_data),
    Entry("jaxopt", "LBFGS, logistic", _logistic, lambda rng: (*normal((12, 3))(rng), jnp.asarray(0.7))),
    Entry("jaxopt", "Bisection", _bisected, _scalar(0.5, 2)),
    Entry("jaxopt", "ProjectedGradient", _projected, normal((8, 4), (8,))),
    Entry("jaxopt", "BoxCDQP", _box_cdqp, normal((4, 6), (4,))),
    Entry("matfree", "tridiag_sym", _lanczos, normal((5, 5), (5,))),
    Entry("matfree", "hessenberg", _arnoldi, normal((5, 5), (5,))),
]  # fmt: skip
