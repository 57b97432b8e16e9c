"""Official folders of pictures: loading one, and saying what is wrong with a copy."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets.image_files import Files, ImageFiles, open_rgb, where
from benchmarks.datasets.split import RECALL_AT, check_counts
from pml_extras._checks import refuse

SHOWN = 5  # files of a kind of problem


@dataclass(frozen=True)
class Official:
    """A data set as its authors publish it; nothing here downloads.

    Args:
        name: as in ``--dataset``.
        folder: in ``--data-root``; what is below it is as published.
        source: where to get it.
        read: folder -> part -> files, by the official lists alone; "train" and "test", and
            "gallery" where queries have one.
        counts: part -> (classes, pictures).
        recall_at: the K that papers report.
    """

    name: str
    folder: str
    source: str
    read: Callable[[Path], Mapping[str, Files]]
    counts: Mapping[str, tuple[int, int]]
    recall_at: tuple[int, ...] = RECALL_AT

    @property
    def needs(self) -> str:
        """One line for the command line."""
        return f"{self.folder}/ in --data-root or PML_EXTRAS_DATA; never downloaded"

    def place(self, root: Path | None = None) -> str | None:
        """Its folder, or None."""
        folder = where(root, self.folder)
        return str(folder) if folder is not None and folder.is_dir() else None

    def load(self, root: Path | None = None) -> ImageFiles:
        """All parts; no picture is opened yet, but each file is there.

        Raises:
            ValueError: no folder is named, it lacks files, or lists and counts are others.
        """
        parts = self._parts(root)
        for part, (classes, images) in self.counts.items():
            check_counts(f"{self.name} {part}", parts[part], classes=classes, images=images)
        if missing := [path for path in _paths(parts) if not Path(path).is_file()]:
            raise refuse(
                self.name, "every listed picture", _some("missing", missing), self._way_out
            )
        return self._data(parts)

    def verify(self, root: Path) -> list[str]:
        """What is wrong with a copy, in words; every picture is decoded, which takes minutes."""
        try:
            parts = self._parts(root)
        except ValueError as error:
            return [str(error)]
        problems = []
        for part, (classes, images) in self.counts.items():
            try:
                check_counts(f"{self.name} {part}", parts[part], classes=classes, images=images)
            except ValueError as error:
                problems.append(str(error))
        try:
            self._data(parts)
        except ValueError as error:
            problems.append(str(error))
        paths = list(_paths(parts))
        missing = [path for path in paths if not Path(path).is_file()]
        absent = set(missing)
        with ThreadPoolExecutor() as pool:
            present = [path for path in paths if path not in absent]
            readable = pool.map(_is_readable, present)
            broken = [path for path, good in zip(present, readable, strict=True) if not good]
        for kind, files in (("missing", missing), ("no picture that can be read", broken)):
            if files:
                problems.append(f"{self.name}: {_some(kind, files)}. {self._way_out}")
        return problems

    def _data(self, parts: Mapping[str, Files]) -> ImageFiles:
        gallery = parts.get("gallery")
        return ImageFiles(
            self.name, parts["train"], parts["test"], gallery, recall_at=self.recall_at
        )

    def _parts(self, root: Path | None) -> Mapping[str, Files]:
        folder = where(root, self.folder)
        if folder is None:
            raise refuse(self.name, "a folder with the official files", "none", self._way_out)
        if not folder.is_dir():
            raise refuse(self.name, f"the folder {folder}", "none", self._way_out)
        try:
            return self.read(folder)
        except (OSError, ValueError, IndexError) as error:  # of lists that are none
            expected = f"the official files in {folder}"
            raise refuse(self.name, expected, f"{error!r}", self._way_out) from error

    @property
    def _way_out(self) -> str:
        return (
            f"Unpack {self.source} so that its files lie in FOLDER/{self.folder}, and pass "
            f"--data-root FOLDER (or set PML_EXTRAS_DATA); `python -m benchmarks data verify "
            f"{self.name}` looks at all of them."
        )


def _paths(parts: Mapping[str, Files]) -> Iterator[str]:
    for files in parts.values():
        yield from files.paths


def _some(kind: str, files: list[str]) -> str:
    """How many, and the first of them."""
    shown = ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
    return f"{len(files)} {kind}: {shown}"


def _is_readable(path: str) -> bool:
    try:
        open_rgb(path)
    except ValueError:
        return False
    return True
