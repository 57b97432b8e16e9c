"""Smoothed transport of one image, by the iteration of the released code, and its sharp limit.

``cost[j][i]`` is that of prototype j and location i.
"""

from math import exp, sqrt


def transport(cost, mass, sharpness, iterations):
    """(plan, residual): rho <- 1 / (n (1 + t S)), t <- mu / sum rho S, from t = 1."""
    n = len(cost[0])
    kernel = [[exp(-sharpness * c) for c in row] for row in cost]
    total = [sum(row[i] for row in kernel) for i in range(n)]
    t = 1.0
    for _ in range(iterations):
        residual = [1 / (n * (1 + t * s)) for s in total]
        t = mass / sum(r * s for r, s in zip(residual, total, strict=True))
    plan = [[t * k * r for k, r in zip(row, residual, strict=True)] for row in kernel]
    return plan, residual


def weights(plan, residual, mass):
    """(p, z) of a plan."""
    n = len(residual)
    return [(1 / n - r) / mass for r in residual], [sum(row) / mass for row in plan]


def sharp_weights(cost, mass):
    """p without smoothing: the cheapest locations give 1 / n each, until ``mass`` is reached."""
    n = len(cost[0])
    cheapest = [min(row[i] for row in cost) for i in range(n)]
    p, left = [0.0] * n, mass
    for i in sorted(range(n), key=cheapest.__getitem__):
        moved = min(1 / n, left)
        p[i], left = moved / mass, left - moved
    return p


def unit_ball_cost(features, prototypes):
    def ball(v):
        norm = sqrt(sum(x * x for x in v))
        return [x / max(1.0, norm) for x in v]

    return [
        [sqrt(sum((a - b) ** 2 for a, b in zip(ball(o), ball(f), strict=True))) for f in features]
        for o in prototypes
    ]
