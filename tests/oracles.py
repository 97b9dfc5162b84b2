"""Every net of the mathematics once more, in plain loops over NumPy numbers: forward and backward.

Written from the page alone and sharing no code with the package, so that a wrong forward pass, whose autodiff would be
a wrong gradient, is seen. Each oracle returns its output and the function that takes the output's adjoint to the
adjoints of the inputs, in the order of the arguments. All numbers are float64.
"""

import math

import numpy as np


def sigmoid(a):
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


def logistic(h, v, c, t):
    """(H1) to (H4); h [B, H], v [H], c number or None, t [B] -> ℓ [B]."""
    B, H = h.shape
    a = [sum(h[i, j] * v[j] for j in range(H)) + (0 if c is None else float(c)) for i in range(B)]
    y = [sigmoid(a_i) for a_i in a]
    loss = np.array([-(t[i] * math.log(y[i]) + (1 - t[i]) * math.log(1 - y[i])) for i in range(B)])

    def backward(loss_bar):
        h_bar, v_bar, c_bar, t_bar = np.zeros((B, H)), np.zeros(H), 0.0, np.zeros(B)
        for i in range(B):
            a_bar = loss_bar[i] * (y[i] - t[i])
            t_bar[i] = -loss_bar[i] * a[i]
            c_bar += a_bar
            for j in range(H):
                v_bar[j] += h[i, j] * a_bar
                h_bar[i, j] = a_bar * v[j]
        return h_bar, v_bar, None if c is None else np.array(c_bar), t_bar

    return loss, backward


def softmax(h, V, c, k):
    """(H5) to (H7); h [B, H], V [H, C], c [C] or None, k [B] -> ℓ [B]."""
    (B, H), C = h.shape, V.shape[1]
    z = np.zeros((B, C))
    for i in range(B):
        for n in range(C):
            z[i, n] = sum(h[i, j] * V[j, n] for j in range(H)) + (0 if c is None else c[n])
    y = np.zeros((B, C))
    for i in range(B):
        total = sum(math.exp(z[i, n]) for n in range(C))
        for n in range(C):
            y[i, n] = math.exp(z[i, n]) / total
    loss = np.array([-math.log(y[i, k[i]]) for i in range(B)])

    def backward(loss_bar):
        h_bar, V_bar, c_bar = np.zeros((B, H)), np.zeros((H, C)), np.zeros(C)
        for i in range(B):
            for n in range(C):
                z_bar = loss_bar[i] * (y[i, n] - (1.0 if n == k[i] else 0.0))
                c_bar[n] += z_bar
                for j in range(H):
                    V_bar[j, n] += h[i, j] * z_bar
                    h_bar[i, j] += z_bar * V[j, n]
        return h_bar, V_bar, None if c is None else c_bar

    return loss, backward


def max_over_time(x, U, b, lengths):
    """(C1) to (C6); x [B, T, S], U [k, S, F], b [F] or None, lengths [B] or None -> h [B, F]."""
    B, T, S = x.shape
    k, _, F = U.shape
    h, winner = np.zeros((B, F)), np.zeros((B, F), int)

    def word(n, t):
        read = T if lengths is None else lengths[n]
        return x[n, t] if t < read else np.zeros(S)

    for n in range(B):
        read = T if lengths is None else lengths[n]
        for j in range(F):
            best = -math.inf
            for t in range(max(read - k, 0) + 1):
                s = sum(word(n, t + i)[d] * U[i, d, j] for i in range(k) for d in range(S))
                s += 0 if b is None else b[j]
                if s > best:  # the first of several equal ones stays
                    best, winner[n, j] = s, t
            h[n, j] = math.tanh(best)

    def backward(h_bar):
        x_bar, U_bar, b_bar = np.zeros(x.shape), np.zeros(U.shape), np.zeros(F)
        for n in range(B):
            read = T if lengths is None else lengths[n]
            for j in range(F):
                c = h_bar[n, j] * (1 - h[n, j] ** 2)
                b_bar[j] += c
                for i in range(k):
                    t = winner[n, j] + i
                    for d in range(S):
                        U_bar[i, d, j] += c * word(n, t)[d]
                        if t < read:
                            x_bar[n, t, d] += c * U[i, d, j]
        return x_bar, U_bar, None if b is None else b_bar

    return h, backward


def embed(E, tokens, lengths):
    """(C7); E [N, S], tokens [B, T] -> [B, T, S]; what lies beyond a length is zero."""
    B, T = tokens.shape
    x = np.zeros((B, T, E.shape[1]))
    for n in range(B):
        for t in range(T if lengths is None else lengths[n]):
            x[n, t] = E[tokens[n, t]]

    def backward(x_bar):
        E_bar = np.zeros(E.shape)
        for n in range(B):
            for t in range(T if lengths is None else lengths[n]):
                for d in range(E.shape[1]):
                    E_bar[tokens[n, t], d] += x_bar[n, t, d]
        return E_bar

    return x, backward


def states(x, U, W, b, h0, lengths, truncate):
    """(R1), (R3) to (R6); x [B, T, D] or whole numbers [B, T], h0 [B, H] -> h [B, T, H] (0 beyond the lengths) and h_T.

    `backward` takes the adjoints of both.
    """
    B, T, H = x.shape[0], x.shape[1], W.shape[0]
    D = U.shape[0]

    def inputs(n, t):  # t counts from 1
        return x[n, t - 1] if x.ndim == 3 else np.eye(D)[x[n, t - 1]]

    h = np.zeros((B, T + 1, H))
    steps = [T if lengths is None else int(lengths[n]) for n in range(B)]
    for n in range(B):
        h[n, 0] = h0[n]
        for t in range(1, steps[n] + 1):
            for j in range(H):
                a = sum(inputs(n, t)[d] * U[d, j] for d in range(D)) + (0 if b is None else b[j])
                h[n, t, j] = math.tanh(a + sum(h[n, t - 1, i] * W[i, j] for i in range(H)))
    last = np.stack([h[n, steps[n]] for n in range(B)])

    def backward(h_bar, last_bar):
        U_bar, W_bar, b_bar = np.zeros((D, H)), np.zeros((H, H)), np.zeros(H)
        x_bar, h0_bar = np.zeros((B, T, D)), np.zeros((B, H))
        for n in range(B):
            delta_next = np.zeros(H)
            for t in range(steps[n], 0, -1):
                g = h_bar[n, t - 1] + (last_bar[n] if t == steps[n] else 0)
                delta = np.zeros(H)
                for i in range(H):
                    carried = sum(delta_next[j] * W[i, j] for j in range(H))
                    if truncate is not None and t % truncate == 0:
                        carried = 0.0
                    delta[i] = (g[i] + carried) * (1 - h[n, t, i] ** 2)
                for j in range(H):
                    b_bar[j] += delta[j]
                    for i in range(H):
                        W_bar[i, j] += h[n, t - 1, i] * delta[j]
                    for d in range(D):
                        U_bar[d, j] += inputs(n, t)[d] * delta[j]
                        x_bar[n, t - 1, d] += delta[j] * U[d, j]
                delta_next = delta
            for i in range(H):
                h0_bar[n, i] = sum(delta_next[j] * W[i, j] for j in range(H)) if steps[n] else last_bar[n, i]
        return x_bar if x.ndim == 3 else None, U_bar, W_bar, None if b is None else b_bar, h0_bar

    return h[:, 1:], last, backward


def logit(x, eta, W, U, v, r, c):
    """(G1), (G2), (G4) to (G7); x [B, a], eta [B, b] -> z_y [B]."""
    (B, a_size), b_size, c_size = x.shape, eta.shape[1], v.shape[0]
    z, s, out = np.zeros((B, c_size)), np.zeros((B, c_size)), np.zeros(B)
    for n in range(B):
        for j in range(c_size):
            z[n, j] = sum(x[n, i] * W[i, j] for i in range(a_size))
            s[n, j] = sum(eta[n, i] * U[i, j] for i in range(b_size))
            out[n] += z[n, j] * s[n, j] * v[j]
        out[n] += sum(x[n, i] * r[i] for i in range(a_size)) + (0 if c is None else float(c))

    def backward(bar):
        x_bar, eta_bar = np.zeros(x.shape), np.zeros(eta.shape)
        W_bar, U_bar, v_bar, r_bar, c_bar = (np.zeros(p.shape) for p in (W, U, v, r, np.zeros(())))
        for n in range(B):
            c_bar += bar[n]
            for i in range(a_size):
                r_bar[i] += bar[n] * x[n, i]
                x_bar[n, i] += bar[n] * r[i]
            for j in range(c_size):
                v_bar[j] += bar[n] * z[n, j] * s[n, j]
                z_bar = bar[n] * v[j] * s[n, j]
                s_bar = bar[n] * v[j] * z[n, j]
                for i in range(a_size):
                    W_bar[i, j] += x[n, i] * z_bar
                    x_bar[n, i] += z_bar * W[i, j]
                for i in range(b_size):
                    U_bar[i, j] += eta[n, i] * s_bar
                    eta_bar[n, i] += s_bar * U[i, j]
        return x_bar, eta_bar, W_bar, U_bar, v_bar, r_bar, None if c is None else c_bar

    return out, backward


def layers(x, W, b):
    """(D1), (D3), (D4); x [B, n_0], W and b tuples (b may be None) -> s_L [B, n_L]."""
    B, L = x.shape[0], len(W)
    a = [x]
    s = x
    for k in range(L):
        rows, cols = W[k].shape
        s = np.zeros((B, cols))
        for n in range(B):
            for j in range(cols):
                s[n, j] = sum(a[k][n, i] * W[k][i, j] for i in range(rows)) + (0 if b is None else b[k][j])
        a.append(np.vectorize(math.tanh)(s))

    def backward(s_bar):
        delta = s_bar
        W_bar, b_bar = [np.zeros(w.shape) for w in W], [np.zeros(w.shape[1]) for w in W]
        for k in reversed(range(L)):
            rows, cols = W[k].shape
            below = np.zeros((B, rows))
            for n in range(B):
                for j in range(cols):
                    b_bar[k][j] += delta[n, j]
                    for i in range(rows):
                        W_bar[k][i, j] += a[k][n, i] * delta[n, j]
                        below[n, i] += delta[n, j] * W[k][i, j]
            delta = below * (1 - a[k] ** 2) if k else below
        return delta, tuple(W_bar), None if b is None else tuple(b_bar)

    return s, backward
