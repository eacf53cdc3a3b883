#!/usr/bin/env python3
"""Writes schemes.txt: a small federated least-squares problem and where every scheme goes on it.

Written from the papers' formulas in double precision, with nothing of the program's; test_schemes
replays it through the scheme table. Run: python3 make_schemes.py >schemes.txt   (needs NumPy)
"""
import numpy as np

CLIENTS, SAMPLED, DIM, SAMPLES, ROUNDS, STEPS, LR = 6, 3, 4, 5, 12, 5, 0.05
rng = np.random.default_rng(7)
A = [rng.normal(size=(SAMPLES, DIM)) + rng.normal(size=DIM) for _ in range(CLIENTS)]
b = [rng.normal(size=SAMPLES) * 2 for _ in range(CLIENTS)]
turns = [sorted(rng.choice(CLIENTS, SAMPLED, replace=False)) for _ in range(ROUNDS)]
# What the program reads is what this script uses: six digits after the point.
A = [np.round(a, 6) for a in A]
b = [np.round(y, 6) for y in b]


def gradient(i, x):
    return A[i].T @ (A[i] @ x - b[i]) / SAMPLES


def descend(i, theta, correct):
    """STEPS steps of gradient descent; correct(x, g) is what the scheme makes of a gradient."""
    x = theta.copy()
    for _ in range(STEPS):
        x = x - LR * correct(x, gradient(i, x))
    return x


def plain(theta, turn):
    return np.mean([descend(i, theta, lambda x, g: g) - theta for i in turn], axis=0)


def outer(step):
    """A scheme that is an optimiser at the server: step(theta, D, state)."""
    def run():
        theta, state = np.zeros(DIM), {}
        for turn in turns:
            theta = step(theta, plain(theta, turn), state)
            yield theta
    return run


def averaging(lr):
    return outer(lambda theta, d, _: theta + lr * d)


def momentum(beta, nesterov, lr):
    def step(theta, d, s):
        s["m"] = beta * s.get("m", 0) + d
        return theta + lr * (d + beta * s["m"] if nesterov else s["m"])
    return outer(step)


def adaptive(square, beta1, tau, lr):
    def step(theta, d, s):
        s["m"] = beta1 * s.get("m", np.zeros(DIM)) + (1 - beta1) * d
        s["v"] = square(s.get("v", np.full(DIM, tau * tau)), d * d)
        return theta + lr * s["m"] / (np.sqrt(s["v"]) + tau)
    return outer(step)


def proximal(mu, lr):
    def run():
        theta = np.zeros(DIM)
        for turn in turns:
            d = [descend(i, theta, lambda x, g: g + mu * (x - theta)) - theta for i in turn]
            theta = theta + lr * np.mean(d, axis=0)
            yield theta
    return run


def scaffold(lr, replace=False):
    """Option II: c_i+ = c_i - c + (theta - x) / (K lr); c += |S| / N mean(c_i+ - c_i), or c is the
    mean of the sampled clients' c_i+."""
    def run():
        theta, c, own = np.zeros(DIM), np.zeros(DIM), np.zeros((CLIENTS, DIM))
        for turn in turns:
            d, dc = [], []
            for i in turn:
                x = descend(i, theta, lambda x, g: g - own[i] + c)
                after = own[i] - c + (theta - x) / (STEPS * LR)
                dc.append(after - own[i])
                d.append(x - theta)
                own[i] = after
            theta = theta + lr * np.mean(d, axis=0)
            c = (np.mean([own[i] for i in turn], axis=0) if replace
                 else c + SAMPLED / CLIENTS * np.mean(dc, axis=0))
            yield theta
    return run


def subspace(parts, replace, stay=1, backfill=True):
    """Subspace-SCAFFOLD, Algorithm 1 of Zhu et al. 2026, P_t the rows of the identity in parts[t]:
    y <- y - LR (P g - P c_i + P c) from P x, the gradient at P^T y + x - P^T P x;
    c_i <- (I - P^T P) c_i + P^T mean(P g); x moves by P^T mean(y - P x); c by what c_i says of P. FedSub has
    no backfill: with P_old P_new^T = 0 nothing of c and c_i outlives P, which stays for some rounds."""
    def run():
        x, c, own = np.zeros(DIM), np.zeros(DIM), np.zeros((CLIENTS, DIM))
        for t, turn in enumerate(turns):
            P = np.eye(DIM)[parts[t // stay % len(parts)]]
            if t % stay == 0 and not backfill:
                c, own = np.zeros(DIM), np.zeros((CLIENTS, DIM))
            rest, y_sum, g_sum, dc = x - P.T @ P @ x, 0, 0, 0
            for i in turn:
                y, g_mean = P @ x, np.zeros(len(P))
                for _ in range(STEPS):
                    g = P @ gradient(i, P.T @ y + rest)
                    g_mean += g / STEPS
                    y = y - LR * (g - P @ own[i] + P @ c)
                before = own[i].copy()
                own[i] = own[i] - P.T @ P @ own[i] + P.T @ g_mean
                y_sum, g_sum, dc = y_sum + y, g_sum + g_mean, dc + own[i] - before
            c = (c - P.T @ P @ c + P.T @ g_sum / SAMPLED if replace else c + dc / CLIENTS)
            x = rest + P.T @ y_sum / SAMPLED
            yield x
    return run


def shared(a):
    """FedSA-LoRA: the first a coordinates are everybody's, the others each client's own."""
    def run():
        x, own = np.zeros(a), np.zeros((CLIENTS, DIM - a))
        for turn in turns:
            ends = [descend(i, np.concatenate([x, own[i]]), lambda x, g: g) for i in turn]
            for i, end in zip(turn, ends):
                own[i] = end[a:]
            x = np.mean([end[:a] for end in ends], axis=0)
            yield np.concatenate([x, np.zeros(DIM - a)])
    return run


def dynamic(alpha, lr):
    """h_i -= alpha (x - theta); h -= alpha / N sum(x - theta); theta+ = theta + mean - h / alpha."""
    def run():
        theta, h, own = np.zeros(DIM), np.zeros(DIM), np.zeros((CLIENTS, DIM))
        for turn in turns:
            d = []
            for i in turn:
                x = descend(i, theta, lambda x, g: g - own[i] + alpha * (x - theta))
                own[i] = own[i] - alpha * (x - theta)
                d.append(x - theta)
            h = h - alpha / CLIENTS * np.sum(d, axis=0)
            theta = theta + lr * (np.mean(d, axis=0) - h / alpha)
            yield theta
    return run


B2 = 0.99
SCHEMES = [
    # name, options, server step, how it goes, coordinates that have a turn, where not all do
    ("fedavg", "-", 1.5, averaging(1.5)),
    ("fedavgm", "beta=0.8", 0.7, momentum(0.8, False, 0.7)),
    ("fedavgm", "beta=0.9,nesterov=on", 0.5, momentum(0.9, True, 0.5)),
    ("fedadagrad", "beta1=0.5,tau=0.01", 0.2,
     adaptive(lambda v, q: v + q, 0.5, 0.01, 0.2)),
    ("fedadam", "beta1=0.9,beta2=0.99,tau=0.01", 0.1,
     adaptive(lambda v, q: B2 * v + (1 - B2) * q, 0.9, 0.01, 0.1)),
    ("fedyogi", "beta1=0.9,beta2=0.99,tau=0.01", 0.1,
     adaptive(lambda v, q: v - (1 - B2) * q * np.sign(v - q), 0.9, 0.01, 0.1)),
    ("fedprox", "mu=0.7", 1.0, proximal(0.7, 1.0)),
    ("scaffold", "-", 1.0, scaffold(1.0)),
    ("scaffold", "control=replace", 1.0, scaffold(1.0, replace=True)),
    ("feddyn", "alpha=0.6", 1.0, dynamic(0.6, 1.0)),
    ("scaffold", "control=replace", 1.0, subspace([[0, 2], [1, 3]], True), "02,13"),
    ("scaffold", "control=incr", 1.0, subspace([[3], [0], [1, 2]], False), "3,0,12"),
    ("scaffold", "backfill=off", 1.0, subspace([[0, 2], [1, 3]], False, 3, False),
     "02x3,13x3"),
    ("fedsa", "-", 1.0, shared(2), "01"),
]


def row(values):
    return " ".join(f"{v:.6f}" for v in values)


print(f"problem {CLIENTS} {SAMPLED} {DIM} {SAMPLES} {ROUNDS} {STEPS} {LR}")
for i in range(CLIENTS):
    for s in range(SAMPLES):
        print(row(A[i][s]), f"{b[i][s]:.6f}")
for turn in turns:
    print(*turn)
for name, options, lr, run, *parts in SCHEMES:
    print("scheme", name, options, lr, *(parts or ["-"]))
    for theta in run():
        print(row(theta))
