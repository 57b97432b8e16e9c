"""What is on the disk survives a killed process; what is broken elsewhere is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.records import Record, append, path_of, read

MadeUp = Callable[..., Record]


def test_records_come_back_in_order(tmp_path: Path, made_up: MadeUp) -> None:
    written = [made_up("contrastive", seed, 0.5) for seed in (1, 0)]
    for record in written:
        append(tmp_path / "new", record)
    assert read(tmp_path / "new", "digits") == written
    assert read(tmp_path, "omniglot") == []


def test_a_half_written_last_line_is_no_record_and_the_next_starts_afresh(
    tmp_path: Path, made_up: MadeUp
) -> None:
    first, second = (made_up("contrastive", seed, 0.5) for seed in (0, 1))
    append(tmp_path, first)
    path = path_of(tmp_path, "digits")
    with path.open("a") as file:
        file.write('{"recipe": "contrastive", "da')
    assert read(tmp_path, "digits") == [first]
    append(tmp_path, second)
    assert read(tmp_path, "digits") == [first, second]
    assert path.read_text().count("\n") == 2


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, made_up: MadeUp) -> None:
    path_of(tmp_path, "digits").write_text("<<<<<<< HEAD\n")
    append(tmp_path, made_up("contrastive", 0, 0.5))
    with pytest.raises(ValueError, match=r"digits.jsonl, line 1: expected one JSON record; got"):
        read(tmp_path, "digits")


def test_the_newest_of_two_equal_runs_counts(tmp_path: Path, made_up: MadeUp) -> None:
    for recall in (0.4, 0.6):
        append(tmp_path, made_up("contrastive", 0, recall))
    assert [record["metrics"]["recall_at_1"] for record in read(tmp_path, "digits")] == [0.6]


def test_a_number_that_is_none_is_not_written(tmp_path: Path, made_up: MadeUp) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append(tmp_path, made_up("contrastive", 0, float("nan")))
    assert read(tmp_path, "digits") == []
