"""A classifier against smoothed labels, one number at a time; numbers may be complex."""

from cmath import exp, log


def linear(weight, bias, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def logits(x, layers):
    """``layers`` are (weight, bias), with ReLU between them."""
    for position, (weight, bias) in enumerate(layers):
        if position > 0:
            x = [v if complex(v).real > 0 else 0.0 for v in x]
        x = linear(weight, bias, x)
    return x


def smoothed(scores, label, smoothing):
    """Cross-entropy where the true class has 1 - smoothing and each other an equal share of it."""
    highest = max(complex(v).real for v in scores)
    total = highest + log(sum(exp(v - highest) for v in scores))
    loss = 0.0
    for c, score in enumerate(scores):
        target = 1 - smoothing if c == label else smoothing / (len(scores) - 1)
        loss -= target * (score - total)
    return loss
