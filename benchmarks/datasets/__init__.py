"""Images, features or files, split by class: no class of the test half is ever trained on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks.datasets import (
    banking77,
    cars196,
    cifar_collage,
    clinc150,
    cub,
    digits,
    flowers,
    image_features,
    in_shop,
    omniglot,
    omniglot_collage,
    omniglot_validation,
    pets,
    sop,
    texts,
)
from benchmarks.datasets.image_files import ImageFiles
from benchmarks.datasets.official import Official
from benchmarks.datasets.raw_texts import RawTexts
from benchmarks.datasets.split import Data
from benchmarks.datasets.texts import Source

AnyData = Data | ImageFiles
Loaded = AnyData | RawTexts


@dataclass(frozen=True)
class Dataset:
    """What the command line needs to know about a data set.

    Args:
        name: as in ``--dataset`` and in the name of the results file.
        needs: one line, what has to be in place.
        load: ``--data-root`` or None -> Data.
        place: ``--data-root`` or None -> where the data is found without a download, else None.
        source: of texts whose features an encoder makes.
        verify: ``--data-root`` -> what is wrong with the copy, in words; None where ``load`` says
            all.
    """

    name: str
    needs: str
    load: Callable[[Path | None], Loaded]
    place: Callable[[Path | None], str | None]
    source: Source | None = None
    verify: Callable[[Path], list[str]] | None = None

    @classmethod
    def of(cls, official: Official, name: str | None = None) -> "Dataset":
        """Of image files, perhaps under another name."""
        return cls(
            name or official.name,
            official.needs,
            partial(_again, name, official.load) if name else official.load,
            official.place,
            verify=official.verify,
        )


def _again(name: str, load: Callable[[Path | None], AnyData], root: Path | None) -> AnyData:
    """The data of another set, with a name, and so results and rows, of its own."""
    return replace(load(root), name=name)


def _of_texts(module: ModuleType) -> tuple[Dataset, ...]:
    """With the features of the encoder, with TF-IDF features, and as they are."""
    source: Source = module.SOURCE
    return (
        Dataset(
            source.name, module.NEEDS, module.load, partial(texts.place_encoded, source), source
        ),
        Dataset(
            f"{source.name}_tfidf",
            module.NEEDS_TFIDF,
            module.load_tfidf,
            partial(texts.place, source),
        ),
        Dataset(
            f"{source.name}_text",
            f"{module.NEEDS_TFIDF}, and --weights",
            module.load_raw,
            partial(texts.place, source),
        ),
    )


CLAIMS_ON_TFIDF = ("clinc150_tfidf_noise", "clinc150_tfidf_alpha", "clinc150_tfidf_proxies")
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("digits", digits.NEEDS, digits.load, digits.place),
        Dataset("omniglot", omniglot.NEEDS, omniglot.load, omniglot.place),
        Dataset("omniglot_validation", omniglot.NEEDS, omniglot_validation.load, omniglot.place),
        Dataset(
            "omniglot_ensemble",
            omniglot.NEEDS,
            partial(_again, "omniglot_ensemble", omniglot.load),
            omniglot.place,
        ),
        Dataset("flowers", flowers.NEEDS, flowers.load, flowers.place),
        Dataset("pets", pets.NEEDS, pets.load, pets.place),
        Dataset("omniglot_collage", omniglot.NEEDS, omniglot_collage.load, omniglot.place),
        Dataset("cifar_collage", cifar_collage.NEEDS, cifar_collage.load, cifar_collage.place),
        *_of_texts(clinc150),
        *_of_texts(banking77),
        *(
            Dataset(
                name,
                clinc150.NEEDS_TFIDF,
                partial(_again, name, clinc150.load_tfidf),
                partial(texts.place, clinc150.SOURCE),
            )
            for name in CLAIMS_ON_TFIDF
        ),
        Dataset(
            "clinc150_tfidf_refit",
            clinc150.NEEDS_TFIDF,
            partial(texts.load_tfidf_refit, clinc150.SOURCE),
            partial(texts.place, clinc150.SOURCE),
        ),
        *map(Dataset.of, (cub.OFFICIAL, cars196.OFFICIAL, sop.OFFICIAL, in_shop.OFFICIAL)),
        *(
            Dataset.of(module.OFFICIAL, f"{module.OFFICIAL.name}_{network}")
            for network in ("dino", "vit")
            for module in (cub, cars196, sop)
        ),
        *(
            Dataset(
                f"{official.name}_features",
                f"{official.folder}/ and {official.name}/{image_features.TRUNK}.npy in --data-root "
                "or PML_EXTRAS_DATA",
                partial(image_features.load, official),
                partial(image_features.place, official),
            )
            for official in (cub.OFFICIAL, cars196.OFFICIAL)
        ),
    )
}

__all__ = ["DATASETS", "AnyData", "Data", "Dataset", "ImageFiles", "Loaded", "RawTexts"]
