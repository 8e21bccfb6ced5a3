"""A variant: what the detector sees. Its data.yaml names the images, and the ground truth that all variants share.

    variant: fnet                       name of the variant in tables
    images: [../../fused/fnet]          folders of images, matched to the ground truth by file stem
    manifest: ../../fused/fnet/manifest.csv     or null; every image must have the digest in the manifest
    train: ../../data/split/truth_train.json
    test: ../../data/split/truth_test.json
    names: [People, Car, ...]
    suffix: _RGB                   suffix of the file stems that is not part of the name; absent if there is none
    infrared_range: [7000, 9000]   raw values that are mapped to 0 and 255 in 16-bit files; absent for 8-bit files

A variant that is fused inside the detector (`detection.inside`) has more keys; its `images` are the visible ones:

    inside: twostream                   how the detector fuses
    channels: 4                         red, green, blue, infrared luma
    infrared: [../../data/pairs/Ir]     folders of the infrared images
    infrared_suffix: _T                 `suffix` of the infrared files

Paths are relative to the file. A data.yaml in the format of ultralytics is read as well (path, train, val, test, names;
YOLO labels in `labels/` next to `images/`, or next to the images).
"""

import argparse
import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from detection.boxes import read_yolo
from detection.classes import check_order, names_of, read_yaml, stated_order
from detection.inside import CHANNELS, INSIDE
from detection.truth import build_truth, read_truth, without_boxes
from pipeline.artefacts import read_csv, read_json, relative, sha256_file, sha256_json, sha256_lines, write_text
from pipeline.pairs import EXTENSIONS, Pair, find_images, read_image, refuse_same_files
from pipeline.stage import InputError, run, some_of

SHOWN_WARNINGS = 10
Part = Literal["train", "test"]


@dataclass(frozen=True)
class Data:
    """One part of a variant: its classes, the ground truth, the image files by name and their digests.

    If the bands are fused `inside` the detector, `images` and `sha256` are those of the visible images, and `infrared`
    and `infrared_sha256` those of the infrared images.
    """

    variant: str
    classes: tuple[str, ...]
    truth: dict[str, Any]
    images: dict[str, Path]
    sha256: dict[str, str]
    infrared_range: tuple[float, float] | None = None
    inside: str | None = None
    infrared: dict[str, Path] = field(default_factory=dict)
    infrared_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """The number of channels of the detector's input."""
        return CHANNELS if self.inside else 3

    def digests(self) -> dict[str, Any]:
        """Return the SHA-256 of the names (as for a list of a split), of the labels, and of the images' bytes by name.

        If the bands are fused inside the detector, also that of the infrared images, equal to `images` of the variant
        infrared. If there is an infrared range, also the range.
        """
        names = sorted(self.images)
        digests = {"names": sha256_lines(names), "labels": sha256_json(self.truth), "images": _digest(self.sha256)}
        if self.inside:
            digests["infrared_images"] = _digest(self.infrared_sha256)
        return digests if self.infrared_range is None else digests | {"infrared_range": list(self.infrared_range)}


def _digest(sha256: Mapping[str, str]) -> str:
    return sha256_lines(f"{name} {sha256[name]}" for name in sorted(sha256))


def read_data(path: Path, part: Part) -> Data:
    """Read one part of the variant that a data.yaml describes.

    Raises:
        InputError: the file is missing, not YAML or lacks a key; its classes are not numbered from 0 without gaps; its
            ground truth is invalid or has no boxes; an image of the part is missing, or its digest is not the one in
            the manifest.
    """
    content = read_yaml(path)
    classes = names_of(content, path)
    # Nested values are not converted to text, because aliases in YAML can expand a small file without bound.
    if not isinstance(content.get("variant"), (str, int, float, type(None))):
        raise InputError(f"{path}: `variant` is not a plain value; expected the name of the variant")
    for key in ("images", "infrared", "manifest", "path", "train", "val", "test"):
        value = content.get(key)
        several = key in ("images", "infrared") or ("images" not in content and key in ("train", "val", "test"))
        words = value if isinstance(value, list) and several else [value or ""]
        if not all(isinstance(word, str) for word in words):
            raise InputError(
                f"{path}: `{key}` is not a path; expected a path{' or a list of paths' if several else ''}"
            )
    if "images" not in content:
        return _read_plain(path, content, part, classes)
    missing = [key for key in ("variant", "images", part) if not content.get(key)]
    if missing:
        raise InputError(
            f"{path} lacks the key `{missing[0]}`; expected variant, images, manifest, train, test and names"
        )
    truth = read_truth(path.parent / content[part])
    found = tuple(category["name"] for category in truth["categories"])
    if found != classes:
        raise InputError(
            f"{path} names the classes {list(classes)}; expected those of its {part} ground truth: {list(found)}"
        )
    without_boxes(truth, f"{part} of {path}:")
    manifest = path.parent / content["manifest"] if content.get("manifest") else None
    suffix, infrared_suffix = (content.get(key) or "" for key in ("suffix", "infrared_suffix"))
    counts, inside = content.get("infrared_range"), content.get("inside")
    if not (isinstance(suffix, str) and isinstance(infrared_suffix, str)):
        raise InputError(f"{path}: `suffix` or `infrared_suffix` is not text; expected the end of file stems")
    stated = (inside in INSIDE, content.get("channels", 3) == CHANNELS, bool(content.get("infrared")))
    if any(stated) != all(stated) or (inside and not all(stated)):
        raise InputError(
            f"{path} has inside {inside!r}, channels {content.get('channels')!r} and {'' if stated[2] else 'no '}"
            f"infrared folders; expected none of these keys, or inside {' or '.join(INSIDE)} with channels {CHANNELS}"
        )
    if counts is not None and not (
        isinstance(counts, list) and len(counts) == 2 and all(isinstance(count, (int, float)) for count in counts)
    ):
        raise InputError(f"{path}: `infrared_range` is {counts!r}; expected a list of two raw values")
    images = match_images(truth, [path.parent / folder for folder in content["images"]], manifest, suffix)
    digests = {name: sha256_file(file) for name, file in images.items()}
    if manifest:
        frame, _ = read_csv(manifest)
        stated = dict(zip(frame["name"], frame["sha256"], strict=True))
        changed = [name for name in images if digests[name] != stated[name]]
        if changed:
            raise InputError(f"{images[changed[0]]} is not the file in {manifest}: its SHA-256 differs; fuse again")
    data = Data(str(content["variant"]), classes, truth, images, digests, None if counts is None else tuple(counts))
    if not inside:
        return data
    infrared = match_images(truth, [path.parent / folder for folder in content["infrared"]], None, infrared_suffix)
    refuse_same_files([Pair(name, images[name], infrared[name]) for name in images])
    sha256 = {name: sha256_file(file) for name, file in infrared.items()}
    return replace(data, inside=inside, infrared=infrared, infrared_sha256=sha256)


def match_images(
    truth: dict[str, Any], folders: Sequence[Path], manifest: Path | None = None, suffix: str = ""
) -> dict[str, Path]:
    """Return the file of every image of `truth`, by name; its stem is the name and the suffix.

    Raises:
        InputError: an image is missing in the folders, or in the manifest.
    """
    files = find_images(folders, suffix)
    names = [image["file_name"] for image in truth["images"]]
    _complete(names, files, ", ".join(map(str, folders)))
    if manifest:
        _complete(names, set(read_csv(manifest)[0]["name"]), str(manifest))
    return {name: files[name] for name in names}


def band_of(variant: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return `suffix` and `infrared_range` of a band from dataset.json, each if there is one.

    For a variant that is fused inside the detector, return `suffix`, `infrared_suffix` and `infrared_range` of both
    bands. Fused images have plain names and 8-bit levels, so that the result for other variants is empty.
    """
    found = {"suffix": dataset.get(f"{variant}_suffix"), "infrared_range": dataset.get(f"{variant}_range")}
    if variant in INSIDE:
        keys = {"suffix": "visible_suffix", "infrared_suffix": "infrared_suffix", "infrared_range": "infrared_range"}
        found = {key: dataset.get(source) for key, source in keys.items()}
    return {key: value for key, value in found.items() if value}


def _complete(names: Sequence[str], found: Any, where: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"{where} lacks {len(missing)} of the {len(names)} images of the ground truth: {some_of(missing)}"
        )


def _read_plain(path: Path, content: dict[str, Any], part: Part, classes: tuple[str, ...]) -> Data:
    """Read the format of ultralytics: folders or lists of images under `path`, with YOLO labels."""
    if not classes:
        raise InputError(f"{path}: `names` is empty; expected the classes in their order")
    files = _plain_files(path, content, part)
    other: Part = "test" if part == "train" else "train"
    if _plain_source(content, other):
        _refuse_shared(path, files, _plain_files(path, content, other))
    sizes, boxes, doubts, unlabelled = {}, {}, [], []
    checked: set[Path] = set()
    for name, file in files.items():
        height, width = read_image(file).shape[:2]
        labels = _labels_of(file)
        found = [place for place in (labels, file.with_suffix(".txt")) if place.is_file()]
        sizes[name], boxes[name] = (width, height), []
        # In this format a missing label file means an image without objects.
        if not found:
            unlabelled.append(name)
            continue
        if found[0].parent not in checked:
            checked.add(found[0].parent)
            if stated := stated_order(found[0].parent, found[0].parent):
                check_order(*stated, classes)
        boxes[name], warnings = read_yolo(found[0], classes, width, height)
        doubts += warnings
    if unlabelled:
        where = _labels_of(files[unlabelled[0]])
        doubts.insert(
            0,
            f"{len(unlabelled)} of {len(files)} images have no label file, such as {where}; they are used as images "
            "without objects",
        )
    if not any(boxes.values()):
        raise InputError(
            f"{path}: the {len(files)} {part} images have no boxes; found {len(files) - len(unlabelled)} label files "
            f"such as {_labels_of(next(iter(files.values())))}; expected YOLO labels next to the images, or in "
            "`labels` if the images are in `images`"
        )
    ids = {name: number for number, name in enumerate(files, 1)}
    truth = build_truth(ids, sizes, boxes, classes)
    for doubt in doubts[:SHOWN_WARNINGS]:
        logging.warning("warning: %s", doubt)
    if len(doubts) > SHOWN_WARNINGS:
        logging.warning("warning: and %d more", len(doubts) - SHOWN_WARNINGS)
    digests = {name: sha256_file(file) for name, file in files.items()}
    return Data(str(content.get("variant", path.stem)), classes, truth, files, digests)


def _plain_source(content: dict[str, Any], part: Part) -> str | list[str] | None:
    return content.get(part) or (content.get("val") if part == "test" else None)


def _plain_files(path: Path, content: dict[str, Any], part: Part) -> dict[str, Path]:
    """Return the images of a part by name, sorted: those in its folders, at any depth, and in its lists."""
    source = _plain_source(content, part)
    if not source:
        raise InputError(f"{path} has no `{part}`, or it is empty; expected folders or lists of images")
    root = path.parent.absolute() / Path(content.get("path") or ".").expanduser()
    files: dict[str, Path] = {}
    for entry in [source] if isinstance(source, str) else source:
        place = root / Path(entry).expanduser()
        if not place.exists() and entry.startswith("../"):  # written by Roboflow, and accepted by ultralytics
            place = root / entry.removeprefix("../")
        if not place.exists():
            raise InputError(f"{path} names {place}, which does not exist; expected a folder or a list of images")
        found = _listed_images(place, root) if place.suffix == ".txt" and place.is_file() else _images_below(place)
        if not found:
            raise InputError(f"{path} names {place}, which has no images; expected a folder or a list of images")
        for file in found:
            if file.stem in files or file.suffix.lower() not in EXTENSIONS:
                raise InputError(
                    f"{file}, named in {path}, is not an image, or is a second image named {file.stem!r}; expected "
                    f"files ending in {', '.join(EXTENSIONS)}, each stem once"
                )
            files[file.stem] = file
    return dict(sorted(files.items()))


def _images_below(folder: Path) -> list[Path]:
    found = glob.glob(f"{glob.escape(str(folder))}/**/*", recursive=True)  # noqa: PTH207  # follows links, as ultralytics
    return sorted(path for path in map(Path, found) if path.suffix.lower() in EXTENSIONS and path.is_file())


def _listed_images(place: Path, root: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not text: {error}; expected UTF-8, one image per line") from None
    return [(place.parent if line.startswith("./") else root) / line.replace("\\", "/") for line in lines if line]


def _labels_of(image: Path) -> Path:
    """Return the label file of an image for ultralytics: the last folder `images` of the path becomes `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts)


def _refuse_shared(path: Path, files: Mapping[str, Path], others: Mapping[str, Path]) -> None:
    """Raise InputError if the two parts of a data.yaml share images."""
    known = {file.resolve() for file in others.values()}
    same = [name for name, file in files.items() if file.resolve() in known]
    if same:
        raise InputError(
            f"{path}: {len(same)} images are both in training and in test ({some_of(same)}); expected `train` and "
            "`test` (or `val`) without common images"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Check that the variant has every image of the split, and write its data.yaml."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.variant",
        description="Check that a variant has every image of the prepared split, and write its data.yaml.",
    )
    parser.add_argument(
        "--variant", required=True, help="name of the variant in tables: visible, infrared, or a method's name"
    )
    parser.add_argument("--prepared", type=Path, required=True, help="folder written by detection.prepare")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of the variant's images")
    parser.add_argument("--manifest", type=Path, help="manifest.csv of a fused folder")
    parser.add_argument(
        "--infrared",
        type=Path,
        nargs="+",
        help=f"folders of the infrared images, for the variants {' and '.join(INSIDE)}; --images are then the visible "
        "images",
    )
    parser.add_argument("--output", type=Path, required=True, help="the data.yaml to write")
    args = parser.parse_args(argv)
    if bool(args.infrared) != (args.variant in INSIDE):
        raise InputError(
            f"--variant {args.variant} {'with' if args.infrared else 'without'} --infrared; expected --infrared for "
            f"{' and '.join(INSIDE)} only"
        )
    truths = {part: args.prepared / f"truth_{part}.json" for part in ("train", "test")}
    described = band_of(args.variant, read_json(args.prepared / "dataset.json"))
    for truth in truths.values():
        match_images(read_truth(truth), args.images, args.manifest, described.get("suffix", ""))
        if args.infrared:
            match_images(read_truth(truth), args.infrared, None, described.get("infrared_suffix", ""))
    here = args.output.parent
    both = {"inside": args.variant, "channels": CHANNELS}
    content = {
        "variant": args.variant,
        "images": [relative(folder, here) for folder in args.images],
        **(both | {"infrared": [relative(folder, here) for folder in args.infrared]} if args.infrared else {}),
        "manifest": relative(args.manifest, here) if args.manifest else None,
        **{part: relative(path, here) for part, path in truths.items()},
        "names": [category["name"] for category in read_truth(truths["train"])["categories"]],
        **described,
    }
    write_text(args.output, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run(main)
