"""The derivations themselves, and the functions that they differentiate; each docstring is the line of the page."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.check._derivation import mark


def _draw(*shapes: Any, seed: int = 0, scale: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(scale * rng.normal(size=shape)) for shape in shapes]


# P · Preliminaries: each function of x summed with weights r, so that no entry's derivative hides another's


def elementwise() -> tuple[Any, ...]:
    x, r = _draw(5, 5)
    return jnp.abs(x) + 0.1, r


def p1(x, r):
    """`(c·x)' = c`."""
    return 3.0 * r


def p2(x, r):
    """`(log x)' = 1/x`."""
    return r * (1 / x)


def p3(x, r):
    """`σ'(x) = σ(x)(1 − σ(x))`."""
    y = jax.nn.sigmoid(x)
    return r * (y * (1 - y))


def p4(x, r):
    """`tanh' x = 1 − tanh²x = sech²x`."""
    return r * (1 / jnp.cosh(x) ** 2)


def p5(x, r):
    """`((2x)²)' = 8x`."""
    return r * (8 * x)


def p6(z, r):
    """`∂ softmax(z)_i / ∂z_k = ŷ_i(δ_ik − ŷ_k)`."""
    y = jax.nn.softmax(z)
    return r @ (y[:, None] * (jnp.eye(5) - y[None, :]))


def tanh(x):
    """What X5 differentiates."""
    return jnp.tanh(x)


def x5(x, r):
    """`tanh' = 1 = tanh²(x)`: a minus sign became an equals sign."""
    return r * jnp.tanh(x) ** 2


# X1 to X4 · Text convolution: a sentence of 6 words, windows of 2, 5 filters, one logistic output


def sentence() -> tuple[Any, ...]:
    return (*_draw(5, (6, 5), (6, 3)), 1.0)


def _windows(w):
    return jnp.concatenate([w[:-1], w[1:]], axis=1)


def text(V, U, w, y):
    """The log-likelihood of the target y."""
    s = mark("s", _windows(w) @ U)
    h = mark("h", jnp.tanh(s).max(0))
    a = mark("a", h @ V)
    return y * jax.nn.log_sigmoid(a) + (1 - y) * jax.nn.log_sigmoid(-a)


def _text(V, U, w, y):
    """The winning windows (a row a filter), their features, and y − σ(Vh)."""
    x = _windows(w)
    x_m = x[(x @ U).argmax(0)]
    h = jnp.tanh((x_m * U.T).sum(1))
    return x_m, h, y - jax.nn.sigmoid(h @ V)


def x1(V, U, w, y):
    """`∂L/∂V = (y − σ(Vh)) h`."""
    _, h, error = _text(V, U, w, y)
    return {"a": error, "V": error * h}


def x2(V, U, w, y):
    """`∂L/∂U = (y − σ(Vh)) V × sech²(U)`, every cell of `U`."""
    _, _, error = _text(V, U, w, y)
    return {"a": error, "h": error * V, "U": (error * V)[None, :] / jnp.cosh(U) ** 2}


def x3(V, U, w, y):
    """Column `j` of `∂L/∂U`: `(y−σ) v_j (1 − tanh²(x_m·u_j)) x_m`."""
    x_m, h, error = _text(V, U, w, y)
    return {"a": error, "h": error * V, "U": (error * V * (1 - h**2))[None, :] * x_m.T}


def x4(V, U, w, y):
    """As X3, then simplified to columns of `v_j (1 − tanh²(·))`."""
    _, h, error = _text(V, U, w, y)
    return {"a": error, "h": error * V, "U": jnp.broadcast_to(error * V * (1 - h**2), U.shape)}


# X6 to X8 · Recurrent net: three steps, a softmax at each, the loss summed over them


def sequence() -> tuple[Any, ...]:
    U, W, V, x = _draw((3, 4), (4, 4), (4, 5), (3, 3))
    return V / 2, W / 2, U / 2, x, jnp.eye(5)[np.array([3, 0, 2])]


def recurrent(V, W, U, x, y):
    """The loss, y one-hot."""

    def step(h, x_t):
        h = mark("h", jnp.tanh(mark("a", x_t @ U + h @ W)))
        return h, h

    _, h = jax.lax.scan(step, jnp.zeros(4, x.dtype), x)
    z = mark("z", h @ V)
    return -(y * jax.nn.log_softmax(z)).sum()


def _recurrent(V, W, U, x, y):
    """`h_0 … h_T`, and `ŷ_t − y_t`."""
    h = [jnp.zeros(4)]
    for x_t in x:
        h.append(jnp.tanh(x_t @ U + h[-1] @ W))
    return jnp.stack(h), jax.nn.softmax(jnp.stack(h[1:]) @ V) - y


def x6(V, W, U, x, y):
    """`∂L_t/∂V = h_tᵀ(ŷ_t − y_t)`, summed over t."""
    h, error = _recurrent(V, W, U, x, y)
    return {"z": error, "V": h[1:].T @ error}


def x7(V, W, U, x, y):
    """`∂L_t/∂W = (ŷ_t−y_t) × Vᵀ × (1 − tanh²) × h_{t−1}`, `∂L_t/∂U` likewise with `x_t`."""
    h, error = _recurrent(V, W, U, x, y)
    explicit = (error @ V.T) * (1 - h[1:] ** 2)
    return {"z": error, "V": h[1:].T @ error, "W": h[:-1].T @ explicit, "U": x.T @ explicit}


def x8(V, W, U, x, y):
    """`dh_t/dW = ∂h_t/∂W + (∂h_t/∂h_{t−1})(dh_{t−1}/dW)`, unrolled to three steps."""
    h, error = _recurrent(V, W, U, x, y)

    def explicit(t):  # ∂h_t[k]/∂W[i, j] at [k, i, j]
        return (1 - h[t] ** 2)[:, None, None] * h[t - 1][None, :, None] * jnp.eye(4)[:, None, :]

    def before(t):  # ∂h_t[k]/∂h_{t−1}[i] at [k, i]
        return (1 - h[t] ** 2)[:, None] * W.T

    def on(matrix, tensor):
        return jnp.einsum("kl,lij->kij", matrix, tensor)

    dh_1 = explicit(1)
    dh_2 = explicit(2) + on(before(2), explicit(1))
    dh_3 = explicit(3) + on(before(3), explicit(2)) + on(before(3) @ before(2), explicit(1))
    return jnp.einsum("tk,tkij->ij", error @ V.T, jnp.stack([dh_1, dh_2, dh_3]))


# X9 to X11 · Gated net: one example, its two inputs multiplied


def pair(size: float = 1.0, rows: int = 3) -> tuple[Any, ...]:
    W, U, v, r, x, eta = _draw((rows, 4), (5, 4), 4, 3, 3, 5)
    return W, U, v, size * r, x, eta, 1.0


def gated(W, U, v, r, x, eta, t):
    """The log-likelihood of the target t."""
    z, s = mark("z", x @ W), mark("s", eta @ U)
    h = mark("h", z * s)
    z_y = mark("z_y", h @ v + x @ r)
    return t * jax.nn.log_sigmoid(z_y) + (1 - t) * jax.nn.log_sigmoid(-z_y)


def x9(W, U, v, r, x, eta, t):
    """`ȳ = (t−y)/(y(1−y))`, `z̄_y = ȳ σ'`, then `h̄ = z̄_y v` and so on down to `W`, `U`, `x` and `η`."""
    z, s = x @ W, eta @ U
    h = z * s
    y = jax.nn.sigmoid(h @ v + x @ r)
    y_bar = (t - y) / (y * (1 - y))
    z_y_bar = y_bar * (y * (1 - y))
    h_bar = z_y_bar * v
    z_bar, s_bar = h_bar * s, h_bar * z
    return {
        "z_y": z_y_bar,
        **{"h": h_bar, "v": z_y_bar * h, "r": z_y_bar * x, "z": z_bar, "s": s_bar},
        **{"W": jnp.outer(x, z_bar), "U": jnp.outer(eta, s_bar), "x": W @ z_bar + z_y_bar * r, "eta": U @ s_bar},
    }


def x11(W, U, v, r, x, eta, t):
    """`z̄ = h̄ ⊙ diag(s)`, read literally, as a matrix."""
    z, s = x @ W, eta @ U
    z_y_bar = t - jax.nn.sigmoid((z * s) @ v + x @ r)
    h_bar = z_y_bar * v
    return {"z_y": z_y_bar, "h": h_bar, "z": h_bar[None, :] * jnp.diag(s)}
