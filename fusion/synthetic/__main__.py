"""Write a data set of synthetic road scenes: `python -m fusion.synthetic --output DIR --train N --test N ...`.

DIR/Vis/00000.png          what the visible camera sees, three channels
DIR/Ir/00000.png           what the infrared camera sees, three equal channels, as in M3FD
DIR/Annotation/00000.xml   its boxes in Pascal VOC's form: edges in pixels, so width is xmax - xmin
DIR/train.txt, test.txt    names of the training and the test scenes; written last
DIR/synthetic.json         the options and versions, written first: by it a later run knows the folder as its own
"""

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusion.synthetic import REVISION
from fusion.synthetic.scene import CLASSES, Box, make_scene
from pipeline.artefacts import read_json, versions, write_json, write_text
from pipeline.pairs import EXTENSIONS, write_image
from pipeline.stage import InputError, Progress, run

SMALLEST_SIZE = 64
MOST_SCENES = 100_000  # names have five digits
FOLDERS = ("Vis", "Ir", "Annotation")
MARKER = "synthetic.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, write the data set and log how many boxes of each class it holds."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.synthetic",
        description="Generate aligned visible-infrared road scenes with boxes, in M3FD's layout. A scene depends on "
        "the seed and its number alone, so the same options give the same bytes, and more scenes extend a data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="training scenes: numbers 0 to N-1")
    parser.add_argument(
        "--test", type=int, default=60, metavar="N", help="test scenes: the numbers after those; may be 0"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 240), metavar=("W", "H"), help=f"pixels, at least {SMALLEST_SIZE}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed gives other scenes")
    options = parser.parse_args(argv)
    write_scenes(options.output, options.train, options.test, tuple(options.size), options.seed)


def write_scenes(output: Path, train: int, test: int, size: tuple[int, int], seed: int) -> None:
    """Write `train` + `test` scenes of `size` (width, height) below `output`, the lists of names last.

    A rerun writes the same files again; a run of other options replaces the files of the former one.

    Raises:
        InputError: a number is out of range, or `output` holds images that are not this program's.
    """
    if train < 1 or test < 0 or train + test > MOST_SCENES:
        raise InputError(
            f"--train {train} --test {test}: wanted at least 1 training scene, at least 0 test scenes "
            f"and at most {MOST_SCENES} together"
        )
    if min(size) < SMALLEST_SIZE:
        raise InputError(f"--size {size[0]} {size[1]}: wanted at least {SMALLEST_SIZE} pixels each way")
    if seed < 0:
        raise InputError(f"--seed {seed}: wanted 0 or more")
    names = [f"{index:05}" for index in range(train + test)]
    _claim(output, names)
    facts = {"train": train, "test": test, "size": list(size), "seed": seed, "revision": REVISION}
    write_json(output / MARKER, facts | {"versions": versions("numpy", "opencv-python-headless")})
    progress, counts = Progress("scenes", len(names), "pairs"), {"train": Counter(), "test": Counter()}
    for index, name in enumerate(names):
        scene = make_scene(seed, index, *size)
        write_image(output / "Vis" / f"{name}.png", scene.visible)
        write_image(output / "Ir" / f"{name}.png", np.repeat(scene.infrared[..., None], 3, axis=2))
        write_text(output / "Annotation" / f"{name}.xml", _annotation(name, size, scene.condition, scene.boxes))
        counts["train" if index < train else "test"].update(box.label for box in scene.boxes)
        progress.step()
    for split, chosen in (("train", names[:train]), ("test", names[train:])):
        boxes = ", ".join(f"{label} {counts[split][label]}" for label in CLASSES)
        logging.info("%s: %d scenes, boxes: %s", split, len(chosen), boxes)
        write_text(output / f"{split}.txt", "".join(f"{name}\n" for name in chosen))


def _claim(output: Path, names: Sequence[str]) -> None:
    """Refuse a folder with images that are not ours; remove a former run's lists, and its scenes beyond `names`."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder; wanted a new one, or one that fusion.synthetic wrote")
    ours: set[str] = set()
    if (output / MARKER).exists():
        facts = read_json(output / MARKER)
        try:
            ours = {f"{index:05}" for index in range(min(facts["train"] + facts["test"], MOST_SCENES))}
        except (KeyError, TypeError):
            raise InputError(f"{output / MARKER} does not say how many scenes it stands for") from None
    found = [path for folder in FOLDERS if (output / folder).is_dir() for path in sorted((output / folder).iterdir())]
    found = [path for path in found if path.suffix.lower() in (*EXTENSIONS, ".xml") and not path.name.startswith(".")]
    for path in found:
        if path.stem not in ours or path.suffix != (".xml" if path.parent.name == "Annotation" else ".png"):
            raise InputError(f"{path} was not written by fusion.synthetic; wanted a new folder, or one that it wrote")
    for path in [output / "train.txt", output / "test.txt", *(path for path in found if path.stem not in names)]:
        path.unlink(missing_ok=True)


def _annotation(name: str, size: tuple[int, int], condition: str, boxes: Sequence[Box]) -> str:
    """Return Pascal VOC's XML; its corners are edges, so that a box over a whole 640x480 image ends at 640, 480."""
    lines = [
        "<annotation>",
        "  <folder>Vis</folder>",
        f"  <filename>{name}.png</filename>",
        f"  <source><condition>{condition}</condition></source>",
        f"  <size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for box in boxes:
        cut = box.left == 0 or box.top == 0 or box.right == size[0] or box.bottom == size[1]
        lines += [
            "  <object>",
            f"    <name>{box.label}</name><pose>Unspecified</pose>"
            f"<truncated>{int(cut)}</truncated><difficult>0</difficult>",
            f"    <bndbox><xmin>{box.left}</xmin><ymin>{box.top}</ymin>"
            f"<xmax>{box.right}</xmax><ymax>{box.bottom}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


if __name__ == "__main__":
    run(main)
