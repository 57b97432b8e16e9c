"""Batches of k-reciprocal neighbours in plain floats and sets."""

from math import dist, hypot


def unit(rows):
    return [[v / hypot(*row) for v in row] if any(row) else list(row) for row in rows]


def neighbours(x, i, k):
    """i and its k nearest others."""
    others = sorted((dist(x[i], x[j]), j) for j in range(len(x)) if j != i)
    return {i, *(j for _, j in others[:k])}


def reciprocal(x, i, k):
    return {c for c in neighbours(x, i, k) if i in neighbours(x, c, k)}


def expanded(kin, expansion_of):
    """``kin`` and the expansion of each member of it that shares more than 2/3 with it."""
    union = set(kin)
    for c in kin:
        expansion = expansion_of(c)
        if 3 * len(expansion & kin) > 2 * len(expansion):
            union |= expansion
    return union


def batch(distance, union, near, size):
    """First the union and then the fillers, by (distance, index)."""
    key = [(d, j) for j, d in enumerate(distance)]
    fillers = sorted(set(near) - union, key=key.__getitem__)
    return (sorted(union, key=key.__getitem__) + fillers)[:size]


def reciprocal_batches(rows, batch_size, k1, k2):
    x = unit(rows)
    batches = []
    for i in range(len(x)):
        union = expanded(reciprocal(x, i, k1), lambda c: reciprocal(x, c, k2))
        distance = [dist(x[i], other) for other in x]
        distance[i] = -1.0
        batches.append(batch(distance, union, neighbours(x, i, k1), batch_size))
    return batches


def query_batches(rows, references, batch_size, k1, k2):
    """Each row alone among the references; positions of references."""
    y = unit(references)
    batches = []
    for query in unit(rows):
        distance = [dist(query, g) for g in y]
        near = set(sorted(range(len(y)), key=distance.__getitem__)[:k1])
        kin = set()
        for g in near:
            others = sorted(dist(y[g], other) for j, other in enumerate(y) if j != g)
            if distance[g] <= others[k1 - 1]:
                kin.add(g)
        union = expanded(kin, lambda c: reciprocal(y, c, k2))
        batches.append(batch(distance, union, near, batch_size - 1))
    return batches
