"""What a data set has to say about itself: its classes, where its files lie, whether it has a split of its own."""

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
    """The folders of a data set: each lists what belongs together, matched by file stem across the three.

    Among `labels` may be JSON files as well. `label_sets` holds the folders and files of each set of labels by its
    name, where the data set names its sets; `labels` are then those of all sets.
    """

    visible: tuple[Path, ...]
    infrared: tuple[Path, ...]
    labels: tuple[Path, ...]
    label_sets: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def sets(self) -> dict[str, tuple[Path, ...]]:
        """Return the folders of each label set; a data set that names none has the one set `labels`."""
        return dict(self.label_sets) or {"labels": self.labels}

    def set_names(self) -> list[str]:
        """Return the names of the label sets, the union last where there are several."""
        names = list(self.sets())
        return [*names, UNION] if len(names) > 1 else names

    def truth(self, name: str | None = None) -> str:
        """Return the label set that trains and that Table II prints: `name`, or the first.

        Raises:
            InputError: the data set has no set of this name.
        """
        names = self.set_names()
        if name not in (None, *names):
            raise InputError(f"--truth {name}: the data set has no such label set; wanted {' or '.join(names)}")
        return name or names[0]


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
        numbered: the classes in the order in which YOLO labels number them; None where several orders are in use and
            the user has to say which.
        orders: of such a data set, the orders in use, by where they come from.
        unlabelled_is_background: whether an image without a label file is one without objects.
        left_out: classes of the labels, beside `classes`, whose boxes are passed over.
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
    """Return the names in `train.txt` and `test.txt` of the root, or None where it has not both."""
    lists = [root / "train.txt", root / "test.txt"]
    if not all(path.is_file() for path in lists):
        return None
    train, test = (read_names(path, suffixes) for path in lists)
    return train, test


def find_labels(folders: tuple[Path, ...], name: str, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the label files of the image `name`: NAME.xml or NAME.txt in one of `folders`, or NAME and a suffix."""
    endings = [f"{suffix}{ending}" for suffix in ("", *suffixes) for ending in (".xml", ".txt", ".XML", ".TXT")]
    candidates = [folder / f"{name}{ending}" for folder in folders for ending in endings]
    found: list[Path] = []
    for path in candidates:
        # Where case does not count, a file is found under both endings.
        if path.is_file() and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def is_json(path: Path) -> bool:
    """Return whether a path of labels is meant as a COCO JSON file, by its ending; else it is a folder."""
    return path.suffix.lower() == ".json"


class LabelReader:
    """Reads the labels of a data set's images, and counts what of them is no object to be found.

    Attributes:
        unlabelled: images without a label file, or without an entry in a JSON file, taken as without objects.
        left_out: boxes passed over, by class.
        crowds: crowds read.
        coco: the JSON files among the labels.
    """

    def __init__(self, dataset: Dataset, root: Path, labels: Sequence[Path] | None = None) -> None:
        """Read the JSON files among `labels`, folders of label files and COCO JSON files; default: the data set's.

        Raises:
            InputError: a JSON file is wrong as a whole, as `CocoLabels` says.
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
        """Read the labels of an image of `width` x `height` pixels: Pascal VOC XML, YOLO text, or an entry of a JSON.

        Raises:
            InputError: there is no file, and the data set does not say that such an image is one without objects, or
                more than one; the file is wrong; a number's class is not known for certain.
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
            cure = "" if found else "; --unlabelled background takes images without one as images without objects"
            raise InputError(
                f"{what} for image {name!r} in {where}; wanted one, {name}.xml or {name}.txt, or an entry in a COCO "
                f".json file that is named in the place of a folder{cure}"
            )
        if entries:
            return entries[0].read(name, width, height)
        if found[0].suffix.lower() == ".xml":
            return read_voc(found[0], self.classes, width, height)
        return read_yolo(found[0], self.numbered(found[0].parent), width, height)

    def numbered(self, folder: Path) -> tuple[str, ...]:
        """Return the classes in the order in which YOLO labels in `folder` number them.

        Raises:
            InputError: a list beside the labels states another order than the data set; nothing states one, and
                several are in use.
        """
        if folder not in self._numbered:
            self._numbered[folder] = self._find_order(folder)
        return self._numbered[folder]

    def doubts(self) -> list[str]:
        """Return warnings of images taken as without objects, of boxes left out by class, and of crowds."""
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
                f"{self.crowds} boxes are crowds, or to be ignored: nothing is learnt of them, and detections in them "
                "are neither right nor wrong"
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
                    f"{path} numbers the classes {numbered_names(names)}; wanted those of the data set in any order: "
                    f"{', '.join(self.dataset.classes)} (--dataset folders takes any, with --classes)"
                )
            return tuple(known[name.casefold()] for name in names)
        if numbered is None:
            orders = "; ".join(f"{numbered_names(names)} ({who})" for who, names in self.dataset.orders.items())
            raise InputError(
                f"{folder} has YOLO labels, and the numbers of this data set's classes are in use in several orders: "
                f"{orders}; wanted a classes.txt beside the labels, one name a line, or --classes NAME ... in their "
                "order (in the configuration dataset: classes)"
            )
        if stated:
            check_order(*stated, numbered)
        return numbered
