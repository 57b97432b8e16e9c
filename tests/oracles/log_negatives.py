"""Log-sum-exp over the pairs of two classes, of rows and of columns; 0-dim tensors."""

import torch


def score(a, b, distances):
    """Minus the Euclidean distance, a constant 0 where points coincide; or the inner product."""
    if not distances:
        return sum(u * v for u, v in zip(a, b, strict=True))
    squared = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
    return -squared.sqrt() if squared.item() > 0 else torch.zeros((), dtype=torch.float64)


def log_sum_exp(terms):
    if not terms:
        return torch.tensor(-torch.inf, dtype=torch.float64)
    top = max(t.item() for t in terms)
    return top + torch.log(sum(torch.exp(t - top) for t in terms))


def both(x, x_labels, y, y_labels, distances):
    """One number a row of x, and one a row of y."""
    of_x = [
        log_sum_exp(
            [score(a, b, distances) for b, m in zip(y, y_labels, strict=True) if m != label]
        )
        for a, label in zip(x, x_labels, strict=True)
    ]
    of_y = [
        log_sum_exp(
            [score(a, b, distances) for a, m in zip(x, x_labels, strict=True) if m != label]
        )
        for b, label in zip(y, y_labels, strict=True)
    ]
    return of_x, of_y
