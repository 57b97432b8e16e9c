"""Which pairs a table of 1, 0 and -1 names: positive, negative, and neither."""


def listed(table, *, same):
    """(a1, p, a2, n), row by row; ``same``: column i is row i, which is no pair with itself."""
    a1, p, a2, n = [], [], [], []
    for i, row in enumerate(table):
        for j, entry in enumerate(row):
            if same and i == j:
                continue
            if entry == 1:
                a1.append(i)
                p.append(j)
            elif entry == 0:
                a2.append(i)
                n.append(j)
    return a1, p, a2, n


def sides(table):
    """(positives, negatives) of each row of a square table, itself among the first."""
    out = []
    for i, row in enumerate(table):
        positives = [j for j, entry in enumerate(row) if i == j or entry == 1]
        out.append((positives, [j for j, entry in enumerate(row) if i != j and entry == 0]))
    return out
