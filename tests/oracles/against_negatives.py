"""NT-Xent and tuplet margin losses over scalars; 0-dim float64 tensors carry the gradient."""

import math

import torch

ZERO = torch.zeros((), dtype=torch.float64)


def cosine(a, b):
    """0 for a vector of zeros."""
    norms = [sum(u * u for u in vector) for vector in (a, b)]
    if min(n.item() for n in norms) == 0:
        return ZERO
    dot = sum(u * v for u, v in zip(a, b, strict=True))
    return dot / (norms[0].sqrt() * norms[1].sqrt())


def euclidean(a, b):
    squared = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
    return squared.sqrt() if squared.item() > 0 else ZERO


def log_one_plus_sum_exp(terms):
    top = max(0.0, *(t.item() for t in terms))
    return top + torch.log(math.exp(-top) + sum(torch.exp(t - top) for t in terms))


def ntxent(positive, negatives, temperature):
    """-log of the share of the positive among itself and the negatives; similarities."""
    if not negatives:
        return ZERO
    return log_one_plus_sum_exp([(n - positive) / temperature for n in negatives])


def tuplet(positive, negatives, margin, scale):
    """Cosines; the margin in radians."""
    if not negatives:
        return ZERO
    squared = 1 - positive * positive
    sine = squared.sqrt() if squared.item() > 1e-14 else ZERO
    slack = math.cos(margin) * positive + math.sin(margin) * sine
    return log_one_plus_sum_exp([scale * (n - slack) for n in negatives])


def of_labels(pair_loss, similarity, x, labels, y, y_labels, *, same):
    """[(i, p)] and [loss] of each pair of one class; ``same``: both sides are one batch."""
    pairs, out = [], []
    for i in range(len(x)):
        negatives = [similarity(x[i], y[n]) for n in range(len(y)) if labels[i] != y_labels[n]]
        for p in range(len(y)):
            if labels[i] == y_labels[p] and not (same and i == p):
                pairs.append((i, p))
                out.append(pair_loss(similarity(x[i], y[p]), negatives))
    return pairs, out


def of_list(pair_loss, similarity, x, y, listed):
    """A miner's (a1, p, a2, n); what is listed twice counts twice."""
    a1, p, a2, n = listed
    out = []
    for i, j in zip(a1, p, strict=True):
        negatives = [similarity(x[k], y[m]) for k, m in zip(a2, n, strict=True) if k == i]
        out.append(pair_loss(similarity(x[i], y[j]), negatives))
    return out
