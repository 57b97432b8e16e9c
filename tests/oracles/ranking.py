"""Smooth-AP and PNP over scalars; 0-dim float64 tensors carry the gradient."""

import torch


def higher(a, b, temperature):
    return 1 / (1 + torch.exp((b - a) / temperature))


def smooth_ap(sim, labels, temperature):
    """One loss a row of a square table of similarities."""
    out = []
    for i, row in enumerate(sim):
        positives = [j for j in range(len(row)) if labels[j] == labels[i]]
        total = 0 * row[i]
        for j in positives:
            in_positives = 1 + sum(higher(row[k], row[j], temperature) for k in positives if k != j)
            in_all = 1 + sum(higher(row[k], row[j], temperature) for k in range(len(row)) if k != j)
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


def pnp(sim, labels, temperature, variant, alpha, b):
    """One loss a row of a square table of similarities."""
    out = []
    for i, row in enumerate(sim):
        positives = [j for j in range(len(row)) if labels[j] == labels[i]]
        negatives = [n for n in range(len(row)) if labels[n] != labels[i]]
        total = 0 * row[i]
        for j in positives:
            before = sum((higher(row[n], row[j], temperature) for n in negatives), start=0 * row[j])
            total = total + penalty(before, variant, alpha, b)
        out.append(total / len(positives))
    return out
