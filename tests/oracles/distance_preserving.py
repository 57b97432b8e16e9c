"""The compression loss from its definition; numbers may be complex."""

from cmath import sqrt


def squared_distances(rows):
    return [[sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) for b in rows] for a in rows]


def relative(matrix):
    """Over the sum of all entries; a matrix of zeros stays."""
    total = sum(v for row in matrix for v in row)
    return [[v / total for v in row] for row in matrix] if total != 0 else matrix


def loss(z, x):
    """B^2 times the Frobenius norm of the difference."""
    ours, theirs = relative(squared_distances(z)), relative(squared_distances(x))
    pairs = [pair for row in zip(ours, theirs, strict=True) for pair in zip(*row, strict=True)]
    return len(z) ** 2 * sqrt(sum((a - b) ** 2 for a, b in pairs))


def root_mean_square(z, x):
    """B times that of the difference of both matrices, each over its mean."""
    over_mean = []
    for rows in (z, x):
        matrix = squared_distances(rows)
        mean = sum(v for row in matrix for v in row) / len(rows) ** 2
        over_mean.append([v / mean for row in matrix for v in row])
    squares = [(a - b) ** 2 for a, b in zip(*over_mean, strict=True)]
    return len(z) * sqrt(sum(squares) / len(squares))
