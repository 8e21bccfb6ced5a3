"""The description of a dataset: its classes, the layout of its files, its own split if it has one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detection.boxes import Labels, read_voc, read_yolo
from detection.classes import check_order, numbered_names, stated_order
from detection.coco import CocoLabels
from pipeline.pairs import Bands, read_names
from pipeline.stage import InputError, some_of

UNION = "union"  # the label set that is made from two or more


@dataclass(frozen=True)
class Layout:
    """The folders of a dataset. Images and labels of a pair are matched by file stem.

    Attributes:
        visible, infrared: folders of images.
        labels: folders of label files, or COCO JSON files; of all label sets, if there are several.
        label_sets: the folders and files of each label set by its name; empty for a dataset that does not name its
            sets.
    """

    visible: tuple[Path, ...]
    infrared: tuple[Path, ...]
    labels: tuple[Path, ...]
    label_sets: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def sets(self) -> dict[str, tuple[Path, ...]]:
        """Return the folders and files of each label set; a dataset that names none has the single set `labels`."""
        return dict(self.label_sets) or {"labels": self.labels}

    def set_names(self) -> list[str]:
        """Return the names of the label sets, and last their union if there are several."""
        names = list(self.sets())
        return [*names, UNION] if len(names) > 1 else names

    def truth(self, name: str | None = None) -> str:
        """Return the label set used in training and for Table II: `name`, by default the first.

        Raises:
            InputError: the dataset has no label set of this name.
        """
        names = self.set_names()
        if name not in (None, *names):
            raise InputError(f"--truth {name}: the dataset has no such label set; expected {' or '.join(names)}")
        return name or names[0]


@dataclass(frozen=True)
class Scene:
    """Where an image was taken.

    Attributes:
        sequence: a run of frames at one place.
        place: all sequences taken at the same place.
        condition: day, night, ...; empty if none is stated.
        source: where this information comes from.
    """

    sequence: str
    place: str
    condition: str
    source: str


@dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes:
        classes: class names, in the order in which they are numbered and printed.
        layout: function from the root, which need not exist yet, to the layout.
        own_split: function from the root to the names of the training and of the test images, or None if the dataset
            has no split of its own.
        condition: function from the root and the name of an image to its condition (`day`, `night`, ...), or None if
            the dataset does not state it; None for a dataset that states no conditions.
        scenes: function from the root and all names to the scenes of the images for which the dataset states them; None
            for a dataset whose scenes are found from its images.
        bands: suffixes and ranges of the files of the two bands.
        numbered: classes in the order in which YOLO labels number them; None if several orders are in use and the user
            has to choose.
        orders: the orders in use by their source, if there are several.
        unlabelled_is_background: whether an image without a label file is an image without objects.
        left_out: classes in the labels, in addition to `classes`, whose boxes are ignored.
    """

    classes: tuple[str, ...]
    layout: Callable[[Path], Layout]
    own_split: Callable[[Path], tuple[list[str], list[str]] | None]
    condition: Callable[[Path, str], str | None] | None = None
    scenes: Callable[[Path, Sequence[str]], Mapping[str, Scene]] | None = None
    bands: Bands = Bands()  # noqa: RUF009  # frozen
    numbered: tuple[str, ...] | None = None
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled_is_background: bool = False
    left_out: tuple[str, ...] = ()


def listed_split(root: Path, suffixes: Sequence[str] = ()) -> tuple[list[str], list[str]] | None:
    """Return the names in `train.txt` and `test.txt` of the root, or None if one of the files is missing."""
    lists = [root / "train.txt", root / "test.txt"]
    if not all(path.is_file() for path in lists):
        return None
    train, test = (read_names(path, suffixes) for path in lists)
    return train, test


def find_labels(folders: tuple[Path, ...], name: str, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the label files of the image `name`: NAME.xml or NAME.txt in one of `folders`, or NAME with a suffix."""
    endings = [f"{suffix}{ending}" for suffix in ("", *suffixes) for ending in (".xml", ".txt", ".XML", ".TXT")]
    candidates = [folder / f"{name}{ending}" for folder in folders for ending in endings]
    found: list[Path] = []
    for path in candidates:
        # On a file system that ignores case, a file is found with .xml and with .XML.
        if path.is_file() and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def is_json(path: Path) -> bool:
    """Return whether a path of labels is a COCO JSON file, by its extension; otherwise it is a folder."""
    return path.suffix.lower() == ".json"


class LabelReader:
    """Reads the labels of the images of a dataset, and counts ignored boxes, crowds and images without labels.

    Attributes:
        unlabelled: names of the images without a label file or an entry in a JSON file, taken as without objects.
        left_out: number of ignored boxes by class.
        crowds: number of crowds read.
        coco: the JSON files among the labels.
    """

    def __init__(self, dataset: Dataset, root: Path, labels: Sequence[Path] | None = None) -> None:
        """Read the COCO JSON files among `labels`, whose other paths are folders; by default all labels of the dataset.

        Raises:
            InputError: as `CocoLabels`.
        """
        self.dataset = dataset
        self.root = root
        self.labels = tuple(dataset.layout(root).labels if labels is None else labels)
        self.folders = tuple(path for path in self.labels if not is_json(path))
        self.classes = (*dataset.classes, *dataset.left_out)
        self.coco = [CocoLabels(path, self.classes, dataset.bands.suffixes) for path in self.labels if is_json(path)]
        self.unlabelled: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.crowds = 0
        self._numbered: dict[Path, tuple[str, ...]] = {}

    def read(self, name: str, width: int, height: int) -> Labels:
        """Read the labels of an image of `width` x `height` pixels from Pascal VOC XML, YOLO text or COCO JSON.

        Raises:
            InputError: there is no label file, and `unlabelled_is_background` is False, or more than one; the file has
                errors; the order of the class numbers in YOLO labels is not certain.
        """
        boxes, warnings = self._read(name, width, height)
        self.left_out.update(box.name for box in boxes if box.name in self.dataset.left_out)
        boxes = [box for box in boxes if box.name not in self.dataset.left_out]
        self.crowds += sum(box.crowd for box in boxes)
        return boxes, warnings

    def _read(self, name: str, width: int, height: int) -> Labels:
        files = find_labels(self.folders, name, self.dataset.bands.suffixes)
        entries = [coco for coco in self.coco if name in coco.images]
        found = [*files, *(coco.path for coco in entries)]
        if not found and self.dataset.unlabelled_is_background:
            self.unlabelled.append(name)
            return [], []
        if len(found) != 1:
            what = " and ".join(map(str, found)) or "no label file"
            where = ", ".join(map(str, self.labels))
            hint = "" if found else "; with --unlabelled background, images without one are images without objects"
            raise InputError(
                f"{what} for image {name!r} in {where}; expected one, {name}.xml or {name}.txt, or an entry in a COCO "
                f".json file given instead of a folder{hint}"
            )
        if entries:
            return entries[0].read(name, width, height)
        if found[0].suffix.lower() == ".xml":
            return read_voc(found[0], self.classes, width, height)
        return read_yolo(found[0], self.numbered(found[0].parent), width, height)

    def numbered(self, folder: Path) -> tuple[str, ...]:
        """Return the classes in the order in which YOLO labels in `folder` number them.

        Raises:
            InputError: a list next to the labels states another order than the dataset; or no order is stated, and
                several are in use.
        """
        if folder not in self._numbered:
            self._numbered[folder] = self._find_order(folder)
        return self._numbered[folder]

    def doubts(self) -> list[str]:
        """Return warnings about images taken as without objects, boxes left out by class, and crowds."""
        doubts = []
        if self.unlabelled:
            doubts.append(
                f"{len(self.unlabelled)} images without a label file are taken as images without objects: "
                f"{some_of(self.unlabelled)}"
            )
        if self.left_out:
            counts = ", ".join(f"{name} {count}" for name, count in self.left_out.items())
            doubts.append(f"boxes left out by class: {counts}")
        if self.crowds:
            doubts.append(
                f"{self.crowds} boxes are marked as crowds or as ignored: they are not trained on, and detections in "
                "them count neither as true nor as false positives"
            )
        return doubts

    def _find_order(self, folder: Path) -> tuple[str, ...]:
        stated = stated_order(folder, self.root)
        numbered = self.dataset.numbered
        if numbered is None and stated:
            path, names = stated
            known = {name.casefold(): name for name in self.dataset.classes}
            if sorted(name.casefold() for name in names) != sorted(known):
                raise InputError(
                    f"{path} numbers the classes {numbered_names(names)}; expected the classes of the dataset in any "
                    f"order: {', '.join(self.dataset.classes)} (--dataset folders accepts any, named with --classes)"
                )
            return tuple(known[name.casefold()] for name in names)
        if numbered is None:
            orders = "; ".join(f"{numbered_names(names)} ({who})" for who, names in self.dataset.orders.items())
            raise InputError(
                f"{folder} has YOLO labels, and several orders of the classes of this dataset are in use: {orders}; "
                "expected a classes.txt next to the labels, one name per line, or --classes NAME ... in the order of "
                "the labels (in the configuration dataset: classes)"
            )
        if stated:
            check_order(*stated, numbered)
        return numbered
