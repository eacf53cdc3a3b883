#!/usr/bin/env python3
"""Writes factors.txt: low-rank adapters of some clients, what servers make of their products, and
where a server goes that sorts its terms of rank one by importance.

By NumPy's dense singular values and least squares, with nothing of the program's; test_unequal
holds src/codec/factors.c and src/fed/haflq.c to it. Run: python3 make_factors.py >factors.txt   (needs NumPy)
"""
import numpy as np

ROWS, COLS, RANK, TERMS, MU = 5, 7, 2, 3, 0.05
rng = np.random.default_rng(11)
start = rng.normal(size=(ROWS + COLS, RANK))
B = [np.round(start[:ROWS] + 0.4 * rng.normal(size=(ROWS, RANK)), 6) for _ in range(TERMS)]
A = [np.round((start[ROWS:] + 0.4 * rng.normal(size=(COLS, RANK))).T, 6) for _ in range(TERMS)]
w = [0.5, 0.3, 0.2]
W = sum(v * b @ a for v, b, a in zip(w, B, A))
u, s, vt = np.linalg.svd(W)
nearest = u[:, :RANK] * s[:RANK] @ vt[:RANK]
# LoRA-FAIR: means of both factors, and the d of least |W - (b + d) a|^2 + nu |d|^2.
b, a = sum(v * x for v, x in zip(w, B)), sum(v * x for v, x in zip(w, A))
nu = MU * np.mean(np.sum(a * a, axis=1))
left = np.concatenate([a, np.sqrt(nu) * np.eye(RANK)], axis=1)  # (b + d) a ~ W, d sqrt(nu) ~ 0
right = np.concatenate([W - b @ a, np.zeros((ROWS, RANK))], axis=1)
d = np.linalg.lstsq(left.T, right.T, rcond=None)[0].T


def show(name, x):
    print(name)
    for row in np.atleast_2d(x):
        print(" ".join(f"{v:.6f}" for v in row))


print("factors", ROWS, COLS, RANK, TERMS, MU)
for k in range(TERMS):
    print("weight", w[k])
    show("b", B[k])
    show("a", A[k])
show("singular", s)
show("nearest", nearest)
show("fit", b + d)
show("norm", [np.linalg.norm(x @ y) for x, y in zip(B, A)])

# HAFLQ's server on the mean of the terms, rows of a and columns of b, which somebody has trained:
# smoothed |theta d| of what has moved, a term worth the mean of its values, the terms by falling worth.
SMOOTH, LR, H_RANK, TRAINED = 0.6, 0.75, 4, [4, 2, 4, 1, 3]
hb, ha = np.round(rng.normal(size=(ROWS, H_RANK)), 6), np.round(rng.normal(size=(H_RANK, COLS)), 6)
sb, sa = np.zeros_like(hb), np.zeros_like(ha)
print("haflq", H_RANK, len(TRAINED), SMOOTH, LR)
show("b", hb)
show("a", ha)
for trained in TRAINED:
    db, da = np.zeros_like(hb), np.zeros_like(ha)
    db[:, :trained] = np.round(rng.normal(size=(ROWS, trained)), 6)
    da[:trained] = np.round(rng.normal(size=(trained, COLS)), 6)
    sb[:, :trained] = (SMOOTH * sb + (1 - SMOOTH) * abs(hb * db))[:, :trained]
    sa[:trained] = (SMOOTH * sa + (1 - SMOOTH) * abs(ha * da))[:trained]
    hb, ha = hb + LR * db, ha + LR * da
    order = np.argsort(-(sb.sum(axis=0) + sa.sum(axis=1)), kind="stable")
    hb, sb, ha, sa = hb[:, order], sb[:, order], ha[order], sa[order]
    print("trained", trained)
    show("db", db)
    show("da", da)
    show("order", order)
    show("b", hb)
    show("a", ha)
