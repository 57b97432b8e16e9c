"""Command line: ``python -m benchmarks data list|verify|build``."""

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from benchmarks import features
from benchmarks.datasets import DATASETS, Data, ImageFiles, RawTexts, texts
from benchmarks.datasets.omniglot import ENVIRONMENT
from benchmarks.datasets.photographs import root_of
from benchmarks.encoders import sentence_encoder, torchvision_encoder, torchvision_file_encoder
from benchmarks.features import Encoder, Rows
from benchmarks.options import Root, fail, known

data_app = typer.Typer(
    help="Data sets: what is in place, whether a copy is whole, and features of frozen trunks.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help=f"One of {', '.join(DATASETS)}.", show_default=False)]
HERE = "`python -m benchmarks data list`"


@data_app.command("list")
def list_command(data_root: Root = None) -> None:
    """Data sets, where they are, and what they need."""
    for name, dataset in DATASETS.items():
        place = dataset.place(data_root)
        state = f"in place ({place})" if place else "not here yet"
        typer.echo(f"{name:22} {state}; needs {dataset.needs}")


@data_app.command("verify")
def verify_command(name: Name, data_root: Root = None) -> None:
    """Read a local copy as a run would, with every check; exit 2 and what is wrong, else counts."""
    known("NAME", name, DATASETS, HERE)
    dataset = DATASETS[name]
    try:
        if root_of(data_root) is None and dataset.place(None) is None:
            raise ValueError(
                f"{name}: expected a local copy; got neither --data-root nor {ENVIRONMENT}. Name "
                "the folder: nothing is downloaded to be verified."
            )
        root = root_of(data_root)
        if dataset.verify and root is not None and (problems := dataset.verify(root)):
            raise ValueError("\n".join(problems))
        data = dataset.load(data_root)
    except ValueError as error:
        fail(error)
    if not isinstance(data, Data):
        unit = "texts" if isinstance(data, RawTexts) else "pictures"
        for half in (data.train, data.test, *([data.gallery] if data.gallery else [])):
            typer.echo(f"{name}: {len(half.classes)} classes, {len(half.labels)} {unit}, read")
        return
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for part, split in parts.items():
        if split is not None:
            typer.echo(
                f"{name} {part}: {len(split.classes)} classes, {len(split.labels)} "
                f"{'images' if split.texts is None else 'texts'} of shape "
                f"{tuple(split.images.shape[1:])}"
            )
    typer.echo("Whole: checksums or counts as published, no class in two parts.")


@data_app.command("build")
def build_command(
    name: Name,
    weights: Annotated[
        Path,
        typer.Option(
            help="Of the trunk: for texts the folder of a model of sentence-transformers, for "
            "images a file with the state_dict of a classifier of torchvision."
        ),
    ],
    trunk: Annotated[
        str | None, typer.Option(help="For images: torchvision's name of it, as resnet50.")
    ] = None,
    data_root: Root = None,
) -> None:
    """Compute features of a frozen trunk once, into a file beside the data; goes on with what an
    interrupted build left."""
    known("NAME", name, DATASETS, HERE)
    try:
        path, rows, encoder = (
            _of_texts(name, weights, data_root)
            if DATASETS[name].source is not None
            else _of_images(name, trunk, weights, data_root)
        )
        with tqdm(total=len(rows), unit="row", dynamic_ncols=True, disable=None) as bar:

            def rows_done(done: int) -> None:
                bar.update(done - bar.n)

            features.build(path, rows, encoder, on_rows=rows_done)
    except ValueError as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on with the rest.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{len(rows)} rows of {encoder.width} features in {path}")


def _of_texts(name: str, weights: Path, root: Path | None) -> tuple[Path, Rows, Encoder]:
    source = DATASETS[name].source
    assert source is not None
    found = texts.read(source, root)
    encoder = sentence_encoder(weights)
    if encoder.width != texts.WIDTH:
        raise ValueError(
            f"--weights: expected {texts.ENCODER}, with {texts.WIDTH} features; got "
            f"{encoder.width} from {weights}."
        )
    return found.folder / f"{texts.ENCODER}.npy", found.texts, encoder


def _of_images(
    name: str, trunk: str | None, weights: Path, root: Path | None
) -> tuple[Path, Rows, Encoder]:
    folder = root_of(root)
    if folder is None or trunk is None:
        raise ValueError(
            f"{name}: expected --trunk and a folder to write to, --data-root or {ENVIRONMENT}; got "
            f"--trunk {trunk} and the folder {folder}."
        )
    data = DATASETS[name].load(root)
    if isinstance(data, ImageFiles):
        encoder = torchvision_file_encoder(trunk, weights, folder)
        return folder / name / f"{trunk}.npy", data.names(folder), encoder
    if not isinstance(data, Data):
        raise ValueError(f"{name}: expected images; got {name}, of texts that stay texts.")
    images = features.images_of(data)
    if images.ndim != 4:
        raise ValueError(f"{name}: expected images or texts to encode; got features already.")
    return folder / name / f"{trunk}.npy", images, torchvision_encoder(trunk, weights)
