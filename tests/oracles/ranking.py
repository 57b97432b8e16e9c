"""Smooth-AP and PNP over scalars; 0-dim float64 tensors carry the gradient."""

import torch


def higher(a, b, temperature):
    return 1 / (1 + torch.exp((b - a) / temperature))


def of_classes(labels):
    """(positives, negatives) of each row, itself among the first."""
    return [
        (
            [j for j in range(len(labels)) if labels[j] == label],
            [n for n in range(len(labels)) if labels[n] != label],
        )
        for label in labels
    ]


def smooth_ap(sim, sides, temperature):
    """One loss a row of a square table of similarities; ``sides`` as of_classes has them."""
    out = []
    for row, (positives, negatives) in zip(sim, sides, strict=True):
        total = 0 * row[0]
        for j in positives:
            in_positives = 1 + sum(higher(row[k], row[j], temperature) for k in positives if k != j)
            both = positives + negatives
            in_all = 1 + sum(higher(row[k], row[j], temperature) for k in both if k != j)
            total = total + in_positives / in_all
        out.append(1 - total / len(positives))
    return out


def penalty(r, variant, alpha, b):
    return {
        "O": lambda: r,
        "Iu": lambda: (1 + r) * torch.log(1 + r),
        "Ib": lambda: (b * r - torch.log(1 + b * r)) / b**2,
        "Ds": lambda: torch.log(1 + r),
        "Dq": lambda: 1 - 1 / (1 + r) ** alpha,
    }[variant]()


def pnp(sim, sides, temperature, variant, alpha, b):
    """One loss a row of a square table of similarities; ``sides`` as of_classes has them."""
    out = []
    for row, (positives, negatives) in zip(sim, sides, strict=True):
        total = 0 * row[0]
        for j in positives:
            before = sum((higher(row[n], row[j], temperature) for n in negatives), start=0 * row[j])
            total = total + penalty(before, variant, alpha, b)
        out.append(total / len(positives))
    return out
