"""Energy and force of a potential field in plain floats."""

from math import hypot, log


def attraction(r, alpha, delta):
    outer = max(r, delta)
    return -(outer**-alpha) if alpha > 0 else log(outer)


def repulsion(r, alpha, delta, core):
    """Above its value at delta; a straight line inside the core."""

    def bare(s):
        return s**-alpha if alpha > 0 else -log(s)

    if r >= delta:
        return 0.0
    if r >= core:
        return bare(r) - bare(delta)
    slope = (alpha if alpha > 0 else 1.0) * core ** -(alpha + 1)
    return bare(core) + slope * (core - r) - bare(delta)


def attraction_force(r, alpha, delta):
    """Derivative by r."""
    if r < delta:
        return 0.0
    return (alpha if alpha > 0 else 1.0) * r ** -(alpha + 1)


def repulsion_force(r, alpha, delta, core):
    """Derivative by r; none where points coincide."""
    if r >= delta or r == 0.0:
        return 0.0
    return -(alpha if alpha > 0 else 1.0) * max(r, core) ** -(alpha + 1)


def field(points, labels, sources, source_labels, weight, alpha, delta, delta_rep, core, itself):
    """Energy, gradient at the points, gradient at the sources, and the sum of |force| of each.

    ``itself``: the sources are the points, so a point is no source for itself.
    """
    size = len(points[0])
    energy = 0.0
    at_points = [[0.0] * size for _ in points]
    at_sources = [[0.0] * size for _ in sources]
    strength, source_strength = [0.0] * len(points), [0.0] * len(sources)
    for a, x in enumerate(points):
        for b, z in enumerate(sources):
            if itself and a == b:
                continue
            difference = [u - v for u, v in zip(x, z, strict=True)]
            r = hypot(*difference)
            if labels[a] == source_labels[b]:
                energy += weight[a] * attraction(r, alpha, delta)
                slope = weight[a] * attraction_force(r, alpha, delta)
            else:
                energy += weight[a] * repulsion(r, alpha, delta_rep, core)
                slope = weight[a] * repulsion_force(r, alpha, delta_rep, core)
            if slope == 0.0:
                continue
            for d in range(size):
                at_points[a][d] += slope * difference[d] / r
                at_sources[b][d] -= slope * difference[d] / r
            strength[a] += abs(slope)
            source_strength[b] += abs(slope)
    return energy, at_points, at_sources, strength, source_strength
