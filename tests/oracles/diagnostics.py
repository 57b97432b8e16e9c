"""Statistics of a batch by loops over plain floats."""

from math import exp, log, sqrt


def share_without_positive(labels, ref_labels=None):
    alone = 0
    for i, label in enumerate(labels):
        if ref_labels is None:
            others = [other for j, other in enumerate(labels) if j != i]
        else:
            others = ref_labels
        alone += label not in others
    return alone / len(labels)


def share_never_anchor(anchors, num):
    return sum(i not in anchors for i in range(num)) / num


def share_of_zeros(losses):
    values = [value for of_term in losses for value in of_term]
    return sum(value == 0 for value in values) / len(values) if values else 1.0


def directions(rows):
    out = []
    for row in rows:
        norm = sqrt(sum(v * v for v in row))
        out.append([v / norm if norm > 0 else 0.0 for v in row])
    return out


def mean_cosine(rows):
    unit = directions(rows)
    cosines = [
        sum(a * b for a, b in zip(unit[i], unit[j], strict=True))
        for i in range(len(unit))
        for j in range(len(unit))
        if i != j
    ]
    return sum(cosines) / len(cosines)


def singular_values(rows):
    """Norms of the columns, turned against one another until all are orthogonal."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    for _ in range(60):
        turned = False
        for p in range(len(columns)):
            for q in range(p + 1, len(columns)):
                a = sum(v * v for v in columns[p])
                b = sum(v * v for v in columns[q])
                c = sum(v * w for v, w in zip(columns[p], columns[q], strict=True))
                if abs(c) <= 1e-17 * sqrt(a * b) or c == 0:
                    continue
                turned = True
                tau = (b - a) / (2 * c)
                t = (1 if tau >= 0 else -1) / (abs(tau) + sqrt(1 + tau * tau))
                cosine = 1 / sqrt(1 + t * t)
                sine = cosine * t
                for k in range(len(rows)):
                    v, w = columns[p][k], columns[q][k]
                    columns[p][k] = cosine * v - sine * w
                    columns[q][k] = sine * v + cosine * w
        if not turned:
            break
    return [sqrt(sum(v * v for v in column)) for column in columns]


def effective_rank(rows):
    sigma = singular_values(directions(rows))
    total = sum(sigma)
    if total == 0:
        return 0.0
    shares = [s / total for s in sigma]
    return exp(-sum(p * log(p) for p in shares if p > 0))
