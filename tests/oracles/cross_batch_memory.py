"""A memory of the last rows as a Python list, the pairs of a batch with it, three losses by loops.

Rows are lists of floats. References are the copies of the batch, then what is in memory: here the
newest first, since no value may depend on their order.
"""

from math import exp, log, sqrt


class Memory:
    """The last ``size`` rows with their labels."""

    def __init__(self, size):
        self.size = size
        self.stored = []

    def references(self, rows, labels):
        """Of a batch that will be stored, whose rows take the place of the oldest."""
        older = self.stored[::-1][: self.size - len(rows)]
        both = [*zip(rows, labels, strict=True), *older]
        return [row for row, _ in both], [label for _, label in both]

    def store(self, rows, labels):
        self.stored = [*self.stored, *zip(rows, labels, strict=True)][-self.size :]


def all_pairs(labels, ref_labels, *, copies_first):
    """(a1, p, a2, n) of each row with each reference but its copy."""
    positive, negative = [], []
    for i, label in enumerate(labels):
        for j, other in enumerate(ref_labels):
            if label != other:
                negative.append((i, j))
            elif not (copies_first and i == j):
                positive.append((i, j))
    return *_columns(positive, 2), *_columns(negative, 2)


def without_copies(mined):
    """What a miner found, but for what takes the copy of a row for its positive."""
    if len(mined) == 3:
        return _columns([(a, p, n) for a, p, n in zip(*mined, strict=True) if a != p], 3)
    kept = [(a, p) for a, p in zip(*mined[:2], strict=True) if a != p]
    return *_columns(kept, 2), *mined[2:]


def triplets(pairs):
    """(a, p, n): each positive pair with each negative pair of its anchor."""
    a1, p, a2, n = pairs
    found = []
    for i, j in zip(a1, p, strict=True):
        found += [(i, j, m) for k, m in zip(a2, n, strict=True) if k == i]
    return _columns(found, 3)


def contrastive(rows, refs, pairs):
    """Mean over the positive pairs apart, plus mean over the negative pairs nearer than 1."""
    a1, p, a2, n = pairs
    pull = [_distance(rows[i], refs[j]) for i, j in zip(a1, p, strict=True)]
    push = [1 - _distance(rows[i], refs[j]) for i, j in zip(a2, n, strict=True)]
    return _mean_of_positive(pull) + _mean_of_positive(push)


def triplet_margin(rows, refs, pairs, margin):
    """Mean over the triplets that violate the margin."""
    violations = [
        _distance(rows[i], refs[j]) - _distance(rows[i], refs[k]) + margin
        for i, j, k in zip(*triplets(pairs), strict=True)
    ]
    return _mean_of_positive(violations)


def ntxent(rows, refs, pairs, temperature):
    """Mean over the positive pairs of the cross-entropy against the anchor's negatives."""
    a1, p, a2, n = pairs
    terms = []
    for i, j in zip(a1, p, strict=True):
        score = exp(_cosine(rows[i], refs[j]) / temperature)
        others = [
            exp(_cosine(rows[i], refs[m]) / temperature)
            for k, m in zip(a2, n, strict=True)
            if k == i
        ]
        terms.append(-log(score / (score + sum(others))))
    return sum(terms) / len(terms) if terms else 0.0


def _columns(found, num):
    return tuple([entry[k] for entry in found] for k in range(num))


def _cosine(x, y):
    product = sum(a * b for a, b in zip(x, y, strict=True))
    return product / (sqrt(sum(a * a for a in x)) * sqrt(sum(b * b for b in y)))


def _distance(x, y):
    return sqrt(max(0.0, 2 - 2 * _cosine(x, y)))


def _mean_of_positive(values):
    kept = [value for value in values if value > 0]
    return sum(kept) / len(kept) if kept else 0.0
