"""Zero-shot prediction, one number at a time; numbers may be complex, for derivatives."""

from cmath import exp, log


def solve(matrix, right):
    """X of ``matrix`` X = ``right``, by Gaussian elimination."""
    rows = [[*m, *r] for m, r in zip(matrix, right, strict=True)]
    size = len(rows)
    for k in range(size):
        best = max(range(k, size), key=lambda i: abs(complex(rows[i][k]).real))
        rows[k], rows[best] = rows[best], rows[k]
        rows[k] = [v / rows[k][k] for v in rows[k]]
        for i in range(size):
            if i != k:
                rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[size:] for row in rows]


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def columns(rows, size):
    return [[row[c] for row in rows] for c in range(size)]


def dual(z, y, num_attributes, size, ridge):
    """Z^T (Z Z^T + r I)^-1 Y."""
    gram = [[dot(a, b) + ridge * (i == j) for j, b in enumerate(z)] for i, a in enumerate(z)]
    weights = solve(gram, y)
    return [
        [dot(attribute, column) for column in columns(weights, size)]
        for attribute in columns(z, num_attributes)
    ]


def primal(z, y, num_attributes, size, ridge):
    """(Z^T Z + r I)^-1 Z^T Y."""
    attributes, targets = columns(z, num_attributes), columns(y, size)
    gram = [
        [dot(a, b) + ridge * (i == j) for j, b in enumerate(attributes)]
        for i, a in enumerate(attributes)
    ]
    return solve(gram, [[dot(a, t) for t in targets] for a in attributes])


def first_half(labels):
    """Every other class, in the order of their numbers."""
    ranks = {c: rank for rank, c in enumerate(sorted(set(labels)))}
    return [ranks[c] % 2 == 0 for c in labels]


def losses(z, labels, vectors, ridge, scale, regressor=dual):
    if len(set(labels)) < 2:
        return [0.0 for _ in labels]
    first = first_half(labels)
    size = len(vectors[0])
    of_half = {}
    for half in (True, False):
        members = [b for b in range(len(z)) if first[b] == half]
        targets = [vectors[labels[b]] for b in members]
        of_half[half] = regressor([z[b] for b in members], targets, len(z[0]), size, ridge)
    out = []
    for b, row in enumerate(z):
        predicted = [dot(row, column) for column in columns(of_half[not first[b]], size)]
        logits = [scale * dot(vector, predicted) for vector in vectors]
        highest = max(complex(v).real for v in logits)
        total = highest + log(sum(exp(v - highest) for v in logits))
        out.append(total - logits[labels[b]])
    return out
