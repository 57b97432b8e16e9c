"""Variance of a difference over the variance of the anchor, over scalars."""


def variance(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def snr(anchor, other):
    return variance([b - a for a, b in zip(anchor, other, strict=True)]) / variance(anchor)
