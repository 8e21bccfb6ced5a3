"""The inputs of jobs: the folders of datasets, and the lists that split them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.pairs import Bands, check_folders
from pipeline.planning.words import BAND_KEYS, band_options, chosen
from pipeline.stage import InputError

BANDS = ("visible", "infrared")
INSIDE = ("stacked", "twostream")  # variants that are fused inside the detector, which gets both bands
SPLIT = "data/split"
LABEL_ENDINGS = (".xml", ".txt", ".names", ".yaml", ".json")
CLASS_LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")  # the names that detection.classes reads


class Layout(Protocol):
    """The folders of a dataset (labels may also be JSON files), and the names of its label sets."""

    visible: Sequence[Path]
    infrared: Sequence[Path]
    labels: Sequence[Path]

    def set_names(self) -> list[str]:
        """Return the names of the label sets; if there are several, the last one is their union."""

    def truth(self, name: str | None) -> str:
        """Return the label set that detectors are trained with; raise InputError if it does not exist."""


@dataclass(frozen=True)
class Sources:
    """The locations of a run's images, boxes and lists.

    Attributes:
        config: the configuration.
        layout: the folders of the dataset with boxes.
        test_sets: the settings of the test sets by name.
    """

    config: Mapping[str, Any]
    layout: Layout
    test_sets: Mapping[str, Mapping[str, Any]]

    @property
    def results(self) -> str:
        """The folder that all results are written to."""
        return self.config["pathvars"]["results"]

    @property
    def root(self) -> str:
        """The folder of the dataset with boxes."""
        return dataset_root(self.config)

    def split_lists(self) -> list[str]:
        """Return the existing files that list the training images, the test images, or their scenes."""
        settings = self.config["dataset"]
        names = [settings["train_list"], settings["test_list"]]
        if settings["split"] == "own" and settings["name"] != "synthetic":
            names = [str(path) for path in Path(self.root).glob("t*.txt") if path.stem in ("train", "test")]
        return sorted(filter(None, [*names, settings["scenes"]]))

    def folders(self, kind: str) -> list[str]:
        """Return the dataset's folders of `visible` images, `infrared` images or `labels`; labels may also be files."""
        return [path.as_posix() for path in getattr(self.layout, kind)]

    def pairs(self, *kinds: str) -> list[str]:
        """Return the inputs of a job that reads the pairs: the last files of the generator, or the user's folders."""
        if self.config["dataset"]["name"] == "synthetic":
            return ["<results>/data/pairs/train.txt", "<results>/data/pairs/test.txt"]
        return [folder for kind in kinds for folder in self.folders(kind)]

    def several_truths(self) -> bool:
        """Return whether the dataset has several label sets, so that detectors are scored with each of them."""
        return len(self.layout.set_names()) > 1

    def labels_digest(self) -> str:
        """Return a digest of the user's label files and of the lists of classes in the same folders.

        The time stamp of a folder does not change when a file in it is overwritten. Labels are small enough to be read.
        """
        state = hashlib.sha256()
        if self.config["dataset"]["name"] != "synthetic":
            places = map(Path, self.folders("labels"))
            labels = (path for place in places for path in (place.glob("*") if place.is_dir() else [place]))
            lists = (path for path in Path(self.root).glob("*") if path.name in CLASS_LISTS)
            for path in sorted({*lists, *labels}):
                if path.suffix.lower() in LABEL_ENDINGS and path.is_file():
                    state.update(f"{path.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return state.hexdigest()[:12]

    def fnet_folders(self, band: str) -> list[str]:
        """Return the folders of `visible` or `infrared` images that FNet trains on."""
        data = self.config["fnet"]["data"]
        return data[band] if data else self.folders(band)

    def fnet_pairs(self) -> list[str]:
        """Return the inputs of FNet's training: its own data, or the training pairs of the dataset with boxes."""
        if self.config["fnet"]["data"]:
            return self.fnet_folders("visible") + self.fnet_folders("infrared")
        return [f"<results>/{SPLIT}/train.txt", *self.pairs(*BANDS)]

    def fnet_names(self) -> list[str]:
        """Return the option that excludes test pairs from FNet's training if it uses the dataset with boxes."""
        return [] if self.config["fnet"]["data"] else ["--names", f"{self.results}/{SPLIT}/train.txt"]

    def fnet_bands(self) -> list[str]:
        """Return the options that distinguish the two bands of FNet's training pairs and define how they are read."""
        return band_options(self.config["fnet"]["data"] or self.config["dataset"])

    def start_weights(self) -> list[str]:
        """Return the weights file that detectors start from, as a list."""
        return list(filter(None, [self.config["detection"]["weights"]]))

    def start_options(self) -> list[str]:
        """Return the options for the weights file that detectors start from, and for whether it is trusted.

        Without such a file, `trust_weights` concerns only detectors that are used unchanged. It is then no option of
        trainings, so that changing it repeats none.
        """
        detection = self.config["detection"]
        return chosen(detection, "weights", "trust_weights") if detection["weights"] else []

    def architecture(self) -> list[str]:
        """Return the user's file with the architecture of the detector, as a list; empty if it is a built-in one."""
        model = self.config["detection"]["model"]
        return [model] if model.endswith((".yaml", ".yml")) else []

    def variant_folders(self, variant: str) -> list[str]:
        """Return the folders of a variant's images; of visible images if it is fused inside the detector."""
        if variant in INSIDE:
            return self.folders("visible")
        return self.folders(variant) if variant in BANDS else [f"{self.results}/fused/{variant}"]

    def variant_files(self, variant: str) -> list[str]:
        """Return the inputs of a job that reads a variant's images."""
        if variant in INSIDE:
            return self.pairs(*BANDS)
        return self.pairs(variant) if variant in BANDS else [f"<results>/fused/{variant}/manifest.csv"]

    def variant_manifest(self, variant: str) -> list[str]:
        """Return the option that names a fused variant's manifest."""
        return [] if variant in (*BANDS, *INSIDE) else ["--manifest", f"{self.results}/fused/{variant}/manifest.csv"]

    def variant_infrared(self, variant: str) -> list[str]:
        """Return the option with the infrared images of a variant that is fused inside the detector."""
        return ["--infrared", *self.folders("infrared")] if variant in INSIDE else []

    def test_set_folder(self, test_set: str, band: str) -> str:
        """Return a test set's folder of `visible` or `infrared` images."""
        return f"{self.config['test_sets']['root']}/{test_set}/{self.test_sets[test_set][band]}"

    def test_set_folders(self, test_set: str) -> list[str]:
        """Return both folders of a test set, visible first."""
        return [self.test_set_folder(test_set, band) for band in BANDS]

    def test_set_bands(self, test_set: str, itself: str | None = None) -> list[str]:
        """Return the options that distinguish a test set's bands; `itself` is a band that is scored as if fused."""
        settings = self.test_sets[test_set]
        suffix = settings.get(f"{itself}_suffix")
        return band_options(settings) + ([f"--fused-suffix={suffix}"] if suffix else [])

    def test_set_scenes(self) -> dict[str, str]:
        """Return the user's table of scenes of each test set that has one."""
        return {name: settings["scenes"] for name, settings in self.test_sets.items() if settings["scenes"]}

    def checked_pairs(self) -> list[str]:
        """Return the options for the pairs that the folder of an own method is checked for; empty before the split."""
        lists = [f"{self.results}/{SPLIT}/{part}.txt" for part in ("train", "test")]
        return [*self._tried(), "--names", *lists] if all(Path(file).is_file() for file in lists) else []

    def tried_pair(self) -> list[str]:
        """Return the options for the pair that the check of any other own method uses.

        If a requested table uses the dataset with boxes, this is its first pair if it exists, or noise of the size of
        the pairs that will be generated. Otherwise it is the first pair of the first test set that exists.
        """
        if set(self.config["tables"]) & {"table2", "fusion"}:
            if all(Path(folder).is_dir() for band in BANDS for folder in self.folders(band)):
                return [*self._tried(), "--first"]
            if self.config["dataset"]["name"] == "synthetic":
                return ["--size", *map(str, self.config["synthetic"]["size"])]
        for name in self.test_sets:
            folders = self.test_set_folders(name)
            if all(Path(folder).is_dir() for folder in folders):
                return ["--visible", folders[0], "--infrared", folders[1], *self.test_set_bands(name), "--first"]
        return []

    def _tried(self) -> list[str]:
        bands = [word for band in BANDS for word in (f"--{band}", *self.folders(band))]
        return [*bands, *band_options(self.config["dataset"])]


def dataset_root(config: Mapping[str, Any]) -> str:
    """Return the folder of the dataset with boxes: the generated one, or the user's."""
    dataset = config["dataset"]
    return f"{config['pathvars']['results']}/data/pairs" if dataset["name"] == "synthetic" else dataset["root"]


def find_sources(
    config: Mapping[str, Any], test_sets: Mapping[str, Mapping[str, Any]], find_dataset: Callable[..., Any]
) -> Sources:
    """Return the sources of a run; `find_dataset` finds a dataset by name, classes, folders and bands.

    Raises:
        InputError: classes or folders are missing for a dataset that needs them, or given for one that has its own; the
            label set does not exist; both bands of the dataset, of a test set or of FNet's own data have a folder in
            common and the same suffix.
    """
    settings = config["dataset"]
    try:
        given = (settings[key] for key in ("name", "classes", "visible", "infrared", "labels"))
        dataset = find_dataset(*given, _bands(settings), settings["unlabelled"], settings["leave_out"])
        sources = Sources(config, dataset.layout(Path(dataset_root(config))), test_sets)
        check_folders(*map(sources.folders, BANDS), _bands(settings))
        sources.layout.truth(settings["truth"])
    except InputError as error:
        raise InputError(f"config: dataset: {error}") from None
    try:
        if config["fnet"]["data"]:
            check_folders(*map(sources.fnet_folders, BANDS), _bands(config["fnet"]["data"]))
        for name, test_set in test_sets.items():
            visible, infrared = sources.test_set_folders(name)
            check_folders(visible, infrared, _bands(test_set))
    except InputError as error:
        raise InputError(f"config: {error}") from None
    return sources


def _bands(settings: Mapping[str, Any]) -> Bands:
    visible, infrared, counts = map(settings.get, BAND_KEYS)
    return Bands(visible or "", infrared or "", counts)
