"""Proxy-NCA as its authors write it, one number at a time; numbers may be complex."""

from cmath import exp, log, sqrt


def unit(x):
    norm = sqrt(sum(v * v for v in x))
    return [v / norm for v in x] if norm != 0 else list(x)


def distances(x, proxies, of_x, of_proxies):
    """Squared, from of_x times the direction of x to of_proxies times that of each proxy."""
    a = [of_x * v for v in unit(x)]
    found = []
    for p in proxies:
        b = [of_proxies * v for v in unit(p)]
        found.append(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)))
    return found


def loss(squared, label, smoothing, scale=1.0):
    """Against the target of 1 - smoothing on the true proxy, the rest shared by the others."""
    scores = [-scale * d for d in squared]
    highest = max(complex(s).real for s in scores)
    denominator = sum(exp(s - highest) for s in scores)
    out = 0.0
    for c, s in enumerate(scores):
        target = 1 - smoothing if c == label else smoothing / (len(scores) - 1)
        out -= target * (s - highest - log(denominator))
    return out
