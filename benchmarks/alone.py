"""What one process writes at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pml_extras._checks import refuse


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from entering with the same file; the hold ends with this process,
    however that ends.

    Raises:
        ValueError: another process is here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.held")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        way_out = "Wait for it to end, or choose another --results."
        raise refuse(str(path), "no other process that writes it", "one", way_out) from None
    try:
        yield
    finally:
        lock.release()
