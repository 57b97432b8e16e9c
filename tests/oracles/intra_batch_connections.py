"""Message passing and both classifiers, one number at a time.

Numbers may be complex: the imaginary part of f(x + ih) / h is the derivative of f at x, without a
difference that could cancel, so these loops are an oracle for gradients too.
"""

from cmath import exp, log, sqrt

STEP = 1e-60


def derivative(function, x, direction):
    """Of ``function`` at the rows ``x`` along the rows ``direction``."""
    moved = [
        [v + 1j * STEP * d for v, d in zip(row, towards, strict=True)]
        for row, towards in zip(x, direction, strict=True)
    ]
    return complex(function(moved)).imag / STEP


def unit(x):
    norm = sqrt(sum(v * v for v in x))
    return [v / norm for v in x] if norm != 0 else list(x)


def linear(weight, bias, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def layer_norm(x, scale, shift):
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return [
        (v - mean) / sqrt(variance + 1e-5) * a + b for v, a, b in zip(x, scale, shift, strict=True)
    ]


def relu(v):
    return v if complex(v).real > 0 else 0.0


def attention_weights(query, keys, null):
    """Of one receiver for all senders, in one head."""
    scores = [
        sum(q * k for q, k in zip(query, key, strict=True)) / sqrt(len(query)) for key in keys
    ]
    highest = max([complex(s).real for s in scores] + [0.0] * null)
    terms = [exp(s - highest) for s in scores]
    total = sum(terms) + (exp(-highest) if null else 0.0)
    return [t / total for t in terms]


def messages(h, p, heads, null):
    """What the attention of every head says to every node, side by side; and the weights."""
    query, key, value = ([linear(p[f"W_{x}"], p[f"b_{x}"], node) for node in h] for x in "qkv")
    size = len(h[0]) // heads
    weights = []
    received = [[] for _ in h]
    for m in range(heads):
        part = slice(m * size, (m + 1) * size)
        of_head = [attention_weights(q[part], [k[part] for k in key], null) for q in query]
        for i, row in enumerate(of_head):
            for c in range(m * size, (m + 1) * size):
                received[i].append(sum(a * v[c] for a, v in zip(row, value, strict=True)))
        weights.append(of_head)
    return received, weights


def step(h, p, heads, null):
    received, _ = messages(h, p, heads, null)
    out = []
    for node, message in zip(h, received, strict=True):
        said = linear(p["W_o"], p["b_o"], message)
        f = layer_norm([a + b for a, b in zip(node, said, strict=True)], p["scale_1"], p["shift_1"])
        hidden = [relu(v) for v in linear(p["W_1"], p["b_1"], f)]
        g = linear(p["W_2"], p["b_2"], hidden)
        out.append(
            layer_norm([a + b for a, b in zip(f, g, strict=True)], p["scale_2"], p["shift_2"])
        )
    return out


def network(x, p, heads, null, concat):
    h = [linear(p["P"], p["b_P"], unit(row)) for row in x]
    states = []
    for layer in p["layers"]:
        h = step(h, layer, heads, null)
        states.append(h)
    return [[v for s in states for v in s[i]] for i in range(len(x))] if concat else h


def batch_norm(z, scale, running=None):
    """With the statistics of the batch, or with given means and variances."""
    out = [[] for _ in z]
    for c, a in enumerate(scale):
        column = [row[c] for row in z]
        if running is None:
            mean = sum(column) / len(column)
            variance = sum((v - mean) ** 2 for v in column) / len(column)
        else:
            mean, variance = running[0][c], running[1][c]
        for i, v in enumerate(column):
            out[i].append((v - mean) / sqrt(variance + 1e-5) * a)
    return out


def cross_entropy(logits, label, temperature, smoothing):
    scaled = [v / temperature for v in logits]
    highest = max(complex(v).real for v in scaled)
    total = highest + log(sum(exp(v - highest) for v in scaled))
    loss = 0.0
    for c, v in enumerate(scaled):
        target = smoothing / len(scaled) + (1 - smoothing if c == label else 0.0)
        loss -= target * (v - total)
    return loss


def mpn_losses(x, labels, p, heads, null, concat, temperature, smoothing, running=None):
    z = batch_norm(network(x, p, heads, null, concat), p["scale_n"], running)
    no_bias = [0.0] * len(p["W_c"])
    return [
        cross_entropy(linear(p["W_c"], no_bias, row), label, temperature, smoothing)
        for row, label in zip(z, labels, strict=True)
    ]


def aux_losses(x, labels, p, temperature, smoothing):
    return [
        cross_entropy(linear(p["W_a"], p["b_a"], row), label, temperature, smoothing)
        for row, label in zip(x, labels, strict=True)
    ]
