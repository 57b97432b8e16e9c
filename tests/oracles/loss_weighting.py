"""Weighting strategies, one number at a time; gradients are the closed forms of their papers."""

from itertools import combinations
from math import exp, log, sqrt


def softmax(a):
    highest = max(a)
    terms = [exp(x - highest) for x in a]
    return [t / sum(terms) for t in terms]


def total(weights, losses):
    return sum(w * v for w, v in zip(weights, losses, strict=True))


def simplex_weights(a, floor):
    return [floor + (1 - len(a) * floor) * p for p in softmax(a)]


def simplex_gradient(a, floor, losses):
    p = softmax(a)
    mean = total(p, losses)
    free = 1 - len(a) * floor
    return [free * p_k * (value - mean) for p_k, value in zip(p, losses, strict=True)]


def squared_weights(c, floor):
    return [x * x + floor for x in c]


def sum_penalty(weights, penalty):
    return penalty * (sum(weights) - 1) ** 2


def squared_gradient(c, floor, penalty, losses):
    excess = sum(squared_weights(c, floor)) - 1
    return [2 * x * (v + 2 * penalty * excess) for x, v in zip(c, losses, strict=True)]


def uncertainty(s, kinds, losses):
    """Terms, regulariser, gradient at s."""
    factors = [0.5 if kind == "regression" else 1.0 for kind in kinds]
    terms = [f * v / exp(x) for f, x, v in zip(factors, s, losses, strict=True)]
    return terms, sum(x / 2 for x in s), [0.5 - t for t in terms]


def non_negative_uncertainty(s, losses):
    terms = [v / (2 * exp(x)) for x, v in zip(s, losses, strict=True)]
    slopes = [exp(x) / (1 + exp(x)) - t for x, t in zip(s, terms, strict=True)]
    return terms, sum(log(1 + exp(x)) for x in s), slopes


def gradnorm(a, norms, losses, first, force):
    """Weights, L_grad, its gradient at a, and the differences inside it."""
    m = len(a)
    p = softmax(a)
    w = [m * x for x in p]
    mean = sum(x * g for x, g in zip(w, norms, strict=True)) / m
    progress = [v / start if start != 0 else 1.0 for v, start in zip(losses, first, strict=True)]
    average = sum(progress) / m
    rates = [x / average if average != 0 else 1.0 for x in progress]
    differences = [x * g - mean * r**force for x, g, r in zip(w, norms, rates, strict=True)]
    at_w = [(d > 0) * g - (d < 0) * g for d, g in zip(differences, norms, strict=True)]
    at_a = []
    for k in range(m):  # dw_j / da_k = m p_j (1[j = k] - p_k)
        at_a.append(sum(at_w[j] * m * p[j] * ((1.0 if j == k else 0.0) - p[k]) for j in range(m)))
    return w, sum(abs(d) for d in differences), at_a, differences


def dynamic_average(last, before, temperature):
    ratios = [x / y if y != 0 else 1.0 for x, y in zip(last, before, strict=True)]
    return [len(last) * p for p in softmax([r / temperature for r in ratios])]


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def squared_length(weights, vectors):
    v = [total(weights, column) for column in zip(*vectors, strict=True)]
    return dot(v, v)


def shortest(vectors):
    """Smallest squared length of a convex combination, face by face.

    Inside a face the shortest v has the same product with each of its corners, so its weights
    solve M w = 1 up to scale; a face where they are not all positive has its shortest on its rim.
    """
    best = min(dot(g, g) for g in vectors)
    for size in range(2, len(vectors) + 1):
        for face in combinations(vectors, size):
            w = solve([[dot(g, h) for h in face] for g in face], [1.0] * size)
            if w is not None and all(x >= 0 for x in w) and sum(w) > 0:
                best = min(best, squared_length([x / sum(w) for x in w], face))
    return best


def solve(matrix, right):
    """Gauss with pivots; None where a pivot vanishes."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    n = len(rows)
    scale = max(abs(x) for row in matrix for x in row)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) <= 1e-12 * scale:
            return None
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def shortest_on_grid(vectors, steps):
    """Smallest squared length over weights that are multiples of 1 / steps, of two or three."""
    if len(vectors) == 2:
        grid = [(i, steps - i) for i in range(steps + 1)]
    else:
        pairs = [(i, j) for i in range(steps + 1) for j in range(steps + 1 - i)]
        grid = [(i, j, steps - i - j) for i, j in pairs]
    return min(squared_length([x / steps for x in w], vectors) for w in grid)


def two_weights(first, second):
    difference = [a - b for a, b in zip(first, second, strict=True)]
    length = dot(difference, difference)
    if length == 0:
        return [0.5, 0.5]
    w = dot([b - a for a, b in zip(first, second, strict=True)], second) / length
    w = min(max(w, 0.0), 1.0)
    return [w, 1 - w]


def norm(x):
    return sqrt(dot(x, x))
