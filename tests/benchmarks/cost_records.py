"""Records of cost that no run made."""

from benchmarks.records import Record


def record(
    loss: str, side: str, rows: int, ms: float, mib: float | None, **changed: object
) -> Record:
    """With what every record has."""
    return {
        "loss": loss,
        "side": side,
        "rows": rows,
        "classes": rows // 4,
        "milliseconds": ms,
        "peak_mib": mib,
        "device": "cpu, 2 threads",
        "versions": {"torch": "9.8", "pytorch-metric-learning": "7.6"},
        **changed,
    }
