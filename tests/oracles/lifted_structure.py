"""Lifted structure losses over scalars; lists of 0-dim float64 tensors carry the gradient."""

import torch


def distance(a, b):
    """Euclidean; a constant 0 where the points coincide."""
    squared = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
    return squared.sqrt() if squared.item() > 0 else torch.zeros((), dtype=torch.float64)


def log_sum_exp(terms):
    top = max(t.item() for t in terms)
    return top + torch.log(sum(torch.exp(t - top) for t in terms))


def lifted(x, y, positives, negatives_of_i, negatives_of_j, alpha, beta):
    """One loss for each (i, j) of ``positives``; negatives_of_* list distances by end."""
    out = []
    for i, j in positives:
        terms = [alpha - d for d in negatives_of_i(i, j) + negatives_of_j(i, j)]
        if not terms:
            out.append(torch.zeros((), dtype=torch.float64))
            continue
        inner = distance(x[i], y[j]) - beta + log_sum_exp(terms)
        out.append(0.5 * inner**2 if inner.item() > 0 else 0 * inner)
    return out


def of_batch(x, labels, alpha, beta):
    """All pairs of a batch, both orders: [(i, j)], [loss]."""
    num = len(x)
    pairs = [(i, j) for i in range(num) for j in range(num) if i != j and labels[i] == labels[j]]

    def negatives(i):
        return [distance(x[i], x[k]) for k in range(num) if labels[k] != labels[i]]

    return pairs, lifted(
        x, x, pairs, lambda i, j: negatives(i), lambda i, j: negatives(j), alpha, beta
    )


def of_references(x, labels, y, y_labels, alpha, beta):
    """Queries against references: negatives of a reference are queries."""
    pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if labels[i] == y_labels[j]]

    def of_query(i, _):
        return [distance(x[i], y[k]) for k in range(len(y)) if y_labels[k] != labels[i]]

    def of_ref(_, j):
        return [distance(x[k], y[j]) for k in range(len(x)) if labels[k] != y_labels[j]]

    return pairs, lifted(x, y, pairs, of_query, of_ref, alpha, beta)


def of_list(x, y, listed, alpha, beta, ref_is_batch):
    """A miner's (a1, p, a2, n); what is listed twice counts twice."""
    a1, p, a2, n = listed
    pairs = list(zip(a1, p, strict=True))
    negatives = list(zip(a2, n, strict=True))

    def of_query(i, _):
        return [distance(x[a], y[b]) for a, b in negatives if a == i]

    def of_other_end(i, j):
        if not ref_is_batch:
            return [distance(x[a], y[b]) for a, b in negatives if b == j]
        return [distance(x[a], y[b]) for a, b in negatives if a == j and j != i]

    return pairs, lifted(x, y, pairs, of_query, of_other_end, alpha, beta)


def generalized(x, y, positive, negative, alpha, beta):
    """One loss a row; positive(i, j) and negative(i, j) say which pairs there are."""
    out = []
    for i in range(len(x)):
        pull = [distance(x[i], y[j]) - beta for j in range(len(y)) if positive(i, j)]
        push = [alpha - distance(x[i], y[j]) for j in range(len(y)) if negative(i, j)]
        if not pull or not push:
            out.append(torch.zeros((), dtype=torch.float64))
            continue
        inner = log_sum_exp(pull) + log_sum_exp(push)
        out.append(inner if inner.item() > 0 else 0 * inner)
    return out
