"""Result records: one JSON object a line, one file a data set, appended and never rewritten."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

RESULTS = Path(__file__).parent / "results"
CPU, FLOAT32 = "cpu", "float32"
Record = dict[str, Any]
Key = TypeVar("Key")


class RunKey(NamedTuple):
    """What makes two runs the same run."""

    recipe: str
    dataset: str
    seed: int
    settings_hash: str


def key_of(record: Record) -> RunKey:
    """Key of a record that was read."""
    return RunKey(*(record[name] for name in RunKey._fields))


def path_of(folder: Path, dataset: str) -> Path:
    """File of a data set."""
    return folder / f"{dataset}.jsonl"


def append(folder: Path, record: Record) -> None:
    """Add a run to the file of its data set; see :func:`append_line`."""
    append_line(path_of(folder, record["dataset"]), record)


def append_line(path: Path, record: Record) -> None:
    """Add a line and wait until the disk has it.

    A last line that a killed process left half-written is cut off first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_half_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, dataset: str) -> list[Record]:
    """Finished runs, oldest first; the newest of those with the same key.

    Raises:
        ValueError: a line other than a half-written last one is no record.
    """
    records: dict[RunKey, Record] = {}
    for key, record in _lines(path_of(folder, dataset), key_of):
        records.pop(key, None)  # so that the newest comes last
        records[key] = record
    return list(records.values())


def path_of_costs(folder: Path, kind: str = CPU) -> Path:
    """File of the measurements on this kind of device, as torch calls it."""
    return folder / "cost" / f"{kind}.jsonl"


def read_field(folder: Path) -> list[Record]:
    """Measurements of a potential field of many proxies, oldest first; errors likewise."""
    return [record for _, record in _lines(path_of_costs(folder, "field"), lambda r: r["field"])]


def read_evaluation(folder: Path) -> list[Record]:
    """Measurements of evaluation on large sets, oldest first; errors likewise."""
    path = path_of_costs(folder, "evaluation")
    return [record for _, record in _lines(path, lambda r: r["evaluation"])]


def read_costs(folder: Path, kind: str = CPU) -> list[Record]:
    """Measurements of cost, oldest first.

    Raises:
        ValueError: a line other than a half-written last one is no record.
    """
    return [
        record for _, record in _lines(path_of_costs(folder, kind), lambda r: r["milliseconds"])
    ]


def _lines(path: Path, key_of: Callable[[Record], Key]) -> Iterator[tuple[Key, Record]]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            key = key_of(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected one JSON record; got {line[:60]!r} ({error!r}). "
                "Delete the line and run its recipe again."
            ) from error
        yield key, record


def cut_half_line(path: Path) -> None:
    """Cut what follows the last newline: a line counts as written when its newline is."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
