"""Binomial deviance over rows of numbers, which may be complex: see intra_batch_connections."""

from cmath import exp, log, sqrt


def cosine(a, b):
    lengths = [sqrt(sum(v * v for v in row)) for row in (a, b)]
    return sum(u * v for u, v in zip(a, b, strict=True)) / lengths[0] / lengths[1]


def squared_distance(a, b):
    return sum((u - v) ** 2 for u, v in zip(a, b, strict=True))


def penalty(exponent):
    """log(1 + e^exponent), with no power that overflows."""
    if complex(exponent).real > 0:
        return exponent + log(1 + exp(-exponent))
    return log(1 + exp(exponent))


def of_pairs(similarities, sign, scale, threshold):
    """One penalty a pair; sign is -1 for positive pairs and +1 for negative ones."""
    return [penalty(sign * scale * (s - threshold)) for s in similarities]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def by_anchor(x, y, positive, negative, similarity, scale_pos, scale_neg, threshold):
    """(positive part, negative part) of each row; positive(i, j), negative(i, j) name the pairs."""
    out = []
    for i, row in enumerate(x):
        pulled = [similarity(row, other) for j, other in enumerate(y) if positive(i, j)]
        pushed = [similarity(row, other) for j, other in enumerate(y) if negative(i, j)]
        out.append(
            (
                mean(of_pairs(pulled, -1, scale_pos, threshold)),
                mean(of_pairs(pushed, 1, scale_neg, threshold)),
            )
        )
    return out


def authors(labels, x, similarity, scale_pos, scale_neg, threshold):
    """The whole loss of one batch, a row of it never against itself."""
    parts = by_anchor(
        x, x,
        lambda i, j: i != j and labels[i] == labels[j],
        lambda i, j: labels[i] != labels[j],
        similarity, scale_pos, scale_neg, threshold,
    )  # fmt: skip
    return mean([pull + push for pull, push in parts])


def yi(labels, x, similarity, alpha, cost, threshold):
    """One scale and a cost in the exponent of negative pairs; means over pairs of the batch."""
    pulled, pushed = [], []
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                m = 1 if labels[i] == labels[j] else -cost
                value = penalty(-alpha * (similarity(x[i], x[j]) - threshold) * m)
                (pulled if m == 1 else pushed).append(value)
    return mean(pulled) + mean(pushed)
