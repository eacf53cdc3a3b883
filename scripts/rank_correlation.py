"""Spearman's rank correlation, alone and with a third figure taken out. Plain Python: the check of
results needs it where there is no numpy."""
import math


def ranks(values):
    """1 for the least; equals share the mean of their places."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def correlation(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    x, y = [v - mx for v in x], [v - my for v in y]
    norm = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(v * w for v, w in zip(x, y)) / norm if norm > 0 else math.nan


def without(x, z):
    """What a line in z does not explain of x."""
    mx, mz = sum(x) / len(x), sum(z) / len(z)
    slope = (sum((v - mx) * (w - mz) for v, w in zip(x, z)) /
             (sum((w - mz)**2 for w in z) or math.inf))
    return [v - mx - slope * (w - mz) for v, w in zip(x, z)]


def with_score(rows, figure):
    """A figure's rank correlation with the score, and the same without bits' part in both."""
    x, y, z = (ranks([r[k] for r in rows]) for k in (figure, 'score', 'bits'))
    return correlation(x, y), correlation(without(x, z), without(y, z))
