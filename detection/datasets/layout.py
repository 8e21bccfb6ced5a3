"""What a data set has to say about itself: its classes, where its files lie, whether it has a split of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.boxes import Labels, read_voc, read_yolo
from pipeline.pairs import Bands, read_names
from pipeline.stage import InputError


@dataclass(frozen=True)
class Layout:
    """The folders of a data set: each lists what belongs together, matched by file stem across the three."""

    visible: tuple[Path, ...]
    infrared: tuple[Path, ...]
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class Scene:
    """Where one image was taken: its sequence, a run of frames at one place, and the place, all its sequences together.

    `condition` is empty where none is stated; `source` says who knows.
    """

    sequence: str
    place: str
    condition: str
    source: str


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        classes: their names in the one order in which they are numbered and printed.
        layout: from the root, which need not exist yet, to its folders.
        own_split: from the root to the names of the training and the test images, or None where the data set brings
            no split.
        condition: from the root and an image's name to its condition (`day`, `night`, ...), or None where the data set
            does not say; None for a data set that never says.
        scenes: from the root and all names to the scenes of those that the data set has an answer for; None for a data
            set whose scenes are found from its images.
        bands: how the files of the two bands are told apart and read.
    """

    classes: tuple[str, ...]
    layout: Callable[[Path], Layout]
    own_split: Callable[[Path], tuple[list[str], list[str]] | None]
    condition: Callable[[Path, str], str | None] | None = None
    scenes: Callable[[Path, Sequence[str]], Mapping[str, Scene]] | None = None
    bands: Bands = Bands()  # noqa: RUF009  # frozen


def listed_split(root: Path, suffixes: Sequence[str] = ()) -> tuple[list[str], list[str]] | None:
    """Return the names in `train.txt` and `test.txt` of the root, or None where it has not both."""
    lists = [root / "train.txt", root / "test.txt"]
    if not all(path.is_file() for path in lists):
        return None
    train, test = (read_names(path, suffixes) for path in lists)
    return train, test


def find_labels(folders: tuple[Path, ...], name: str, suffixes: Sequence[str] = ()) -> Path:
    """Return the label file of the image `name`: NAME.xml or NAME.txt in one of `folders`, or NAME and a suffix.

    Raises:
        InputError: there is none, or more than one. An image without objects has an empty file, not a missing one.
    """
    endings = [f"{suffix}{ending}" for suffix in ("", *suffixes) for ending in (".xml", ".txt")]
    candidates = [folder / f"{name}{ending}" for folder in folders for ending in endings]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        what = " and ".join(map(str, found)) or "no label file"
        where = ", ".join(map(str, folders))
        raise InputError(
            f"{what} for image {name!r} in {where}; wanted one, {' or '.join(name + ending for ending in endings)}"
        )
    return found[0]


def read_labels(path: Path, classes: tuple[str, ...], width: int, height: int) -> Labels:
    """Read a label file by its ending: Pascal VOC XML or YOLO text."""
    return (read_voc if path.suffix == ".xml" else read_yolo)(path, classes, width, height)
