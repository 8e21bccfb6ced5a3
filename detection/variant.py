"""A variant: what the detector sees. Its data.yaml names the images and the ground truth that all variants share.

    variant: fnet                       what a table calls it
    images: [../../fused/fnet]          folders of images, matched to the ground truth by file stem
    manifest: ../../fused/fnet/manifest.csv     or null; every image must then have the digest that it states
    train: ../../data/split/truth_train.json
    test: ../../data/split/truth_test.json
    names: [People, Car, ...]
    suffix: _RGB                   where stems end with more than the name, that; else no such key
    infrared_range: [7000, 9000]   where files have 16-bit counts, those of levels 0 and 255; else no such key

Paths are relative to the file. The form that ultralytics users have (path, train, val, test, names; labels as YOLO text
in `labels/` beside `images/`) is read as well.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from detection.boxes import read_yolo
from detection.truth import build_truth, read_truth
from pipeline.artefacts import read_csv, read_json, relative, sha256_file, sha256_json, sha256_lines, write_text
from pipeline.pairs import EXTENSIONS, find_images, read_image
from pipeline.stage import InputError, run, some_of

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Data:
    """One part of a variant: its classes, the ground truth, the image files by name and their digests."""

    variant: str
    classes: tuple[str, ...]
    truth: dict[str, Any]
    images: dict[str, Path]
    sha256: dict[str, str]
    infrared_range: tuple[float, float] | None = None

    def digests(self) -> dict[str, Any]:
        """Return the SHA-256 of the names (as of a split's list), of the labels, and of the images' bytes by name.

        Beside them stands the infrared range, where there is one.
        """
        names = sorted(self.images)
        lines = (f"{name} {self.sha256[name]}" for name in names)
        digests = {"names": sha256_lines(names), "labels": sha256_json(self.truth), "images": sha256_lines(lines)}
        return digests if self.infrared_range is None else digests | {"infrared_range": list(self.infrared_range)}


def read_data(path: Path, part: Part) -> Data:
    """Read one part of the variant that a data.yaml describes.

    Raises:
        InputError: the file is missing, no YAML or lacks a key; its ground truth is broken; an image of the part is
            missing, or differs from what the manifest states.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; wanted a data.yaml") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{path} has no key `names`; wanted a data.yaml")
    names = content["names"]
    names = list(names.values()) if isinstance(names, dict) else names
    # Nothing deeper is taken as text: aliases in YAML make a small file an endless one.
    for key, value in (("names", names), ("variant", content.get("variant"))):
        words = value if isinstance(value, list) else [value]
        if not all(isinstance(word, (str, int, float, type(None))) for word in words):
            raise InputError(f"{path}: `{key}` is neither a word nor a list of words")
    for key in ("images", "manifest", "path", "train", "val", "test"):
        value = content.get(key)
        several = key == "images" or ("images" not in content and key in ("train", "val", "test"))
        words = value if isinstance(value, list) and several else [value or ""]
        if not all(isinstance(word, str) for word in words):
            raise InputError(f"{path}: `{key}` is no path{' and no list of paths' if several else ''}")
    if not isinstance(names, list):
        raise InputError(f"{path}: `names` is no list; wanted the classes in their order")
    classes = tuple(map(str, names))
    if "images" not in content:
        return _read_plain(path, content, part, classes)
    missing = [key for key in ("variant", "images", part) if not content.get(key)]
    if missing:
        raise InputError(f"{path} has no key `{missing[0]}`; wanted variant, images, manifest, train, test, names")
    truth = read_truth(path.parent / content[part])
    found = tuple(category["name"] for category in truth["categories"])
    if found != classes:
        raise InputError(f"{path} names the classes {list(classes)}, its {part} ground truth {list(found)}")
    manifest = path.parent / content["manifest"] if content.get("manifest") else None
    suffix, counts = content.get("suffix") or "", content.get("infrared_range")
    if not isinstance(suffix, str):
        raise InputError(f"{path}: `suffix` is no text")
    if counts is not None and not (
        isinstance(counts, list) and len(counts) == 2 and all(isinstance(count, (int, float)) for count in counts)
    ):
        raise InputError(f"{path}: `infrared_range` is no list of two counts")
    images = match_images(truth, [path.parent / folder for folder in content["images"]], manifest, suffix)
    digests = {name: sha256_file(file) for name, file in images.items()}
    if manifest:
        frame, _ = read_csv(manifest)
        stated = dict(zip(frame["name"], frame["sha256"], strict=True))
        changed = [name for name in images if digests[name] != stated[name]]
        if changed:
            raise InputError(f"{images[changed[0]]} is not the file that {manifest} describes: its sha256 differs")
    return Data(str(content["variant"]), classes, truth, images, digests, None if counts is None else tuple(counts))


def match_images(
    truth: dict[str, Any], folders: Sequence[Path], manifest: Path | None = None, suffix: str = ""
) -> dict[str, Path]:
    """Return the file of every image of `truth`, by name; its stem may end with a suffix beside the name.

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
    """Return what dataset.json says of the files of a band: `suffix`, `infrared_range`, each where there is one.

    Fused images are named and levelled already: for other variants than the bands there is nothing.
    """
    found = {"suffix": dataset.get(f"{variant}_suffix"), "infrared_range": dataset.get(f"{variant}_range")}
    return {key: value for key, value in found.items() if value}


def _complete(names: Sequence[str], found: Any, where: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"{where} lacks {len(missing)} of the {len(names)} images of the ground truth: {some_of(missing)}"
        )


def _read_plain(path: Path, content: dict[str, Any], part: Part, classes: tuple[str, ...]) -> Data:
    """Read the form of ultralytics: folders or lists of images under `path`, YOLO labels beside them."""
    source = content.get(part) or (content.get("val") if part == "test" else None)
    if not source:
        raise InputError(f"{path} has no key `{part}`; wanted folders or lists of images")
    root = path.parent / Path(content.get("path") or ".").expanduser()
    files: dict[str, Path] = {}
    for entry in [source] if isinstance(source, str) else source:
        place = root / Path(entry).expanduser()
        if place.suffix == ".txt":
            if not place.is_file():
                raise InputError(f"{path} names {place}, which does not exist")
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
            found = [(place.parent if line.startswith("./") else root) / line for line in lines if line]
        else:
            found = list(find_images(place).values())
        for file in found:
            if file.stem in files or file.suffix.lower() not in EXTENSIONS:
                raise InputError(f"{file}, named in {path}, is no image, or a second one of the name {file.stem!r}")
            files[file.stem] = file
    sizes, boxes = {}, {}
    for name, file in sorted(files.items()):
        height, width = read_image(file).shape[:2]
        parts = list(file.with_suffix(".txt").parts)
        if "images" in parts:
            parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        labels = Path(*parts)
        # In this form, and only here, a missing file means an image without objects.
        sizes[name] = (width, height)
        boxes[name] = read_yolo(labels, classes, width, height)[0] if labels.is_file() else []
    ids = {name: number for number, name in enumerate(sorted(files), 1)}
    truth = build_truth(ids, sizes, boxes, classes)
    files = dict(sorted(files.items()))
    digests = {name: sha256_file(file) for name, file in files.items()}
    return Data(str(content.get("variant", path.stem)), classes, truth, files, digests)


def main(argv: Sequence[str] | None = None) -> None:
    """Check that the variant has every image of the split and write its data.yaml."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.variant",
        description="Write a variant's data.yaml, after checking that it has every image of the prepared split.",
    )
    parser.add_argument("--variant", required=True, help="what tables call it: visible, infrared, a method's name")
    parser.add_argument("--prepared", type=Path, required=True, help="folder written by detection.prepare")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of the variant's images")
    parser.add_argument("--manifest", type=Path, help="manifest.csv of a fused folder")
    parser.add_argument("--output", type=Path, required=True, help="the data.yaml to write")
    args = parser.parse_args(argv)
    truths = {part: args.prepared / f"truth_{part}.json" for part in ("train", "test")}
    described = band_of(args.variant, read_json(args.prepared / "dataset.json"))
    for truth in truths.values():
        match_images(read_truth(truth), args.images, args.manifest, described.get("suffix", ""))
    here = args.output.parent
    content = {
        "variant": args.variant,
        "images": [relative(folder, here) for folder in args.images],
        "manifest": relative(args.manifest, here) if args.manifest else None,
        **{part: relative(path, here) for part, path in truths.items()},
        "names": [category["name"] for category in read_truth(truths["train"])["categories"]],
        **described,
    }
    write_text(args.output, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run(main)
