"""Write a dataset of synthetic road scenes: `python -m fusion.synthetic --output DIR --train N --test N ...`.

DIR/Vis/00000.png          the visible image, three channels
DIR/Ir/00000.png           the infrared image, three equal channels, as in M3FD
DIR/Annotation/00000.xml   the boxes in Pascal VOC format: edges in pixels, so that the width is xmax - xmin
DIR/train.txt, test.txt    names of the training and the test pairs; written last
DIR/synthetic.json         options and versions; written first, so that a later run recognises the folder as its own
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
    """Parse the options, write the dataset and log the number of boxes of each class."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.synthetic",
        description="Generate aligned visible-infrared pairs of road scenes with boxes, in M3FD's layout. A pair "
        "depends only on the seed and its number: the same options give the same bytes, and larger numbers extend a "
        "dataset.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="number of training pairs: 0 to N-1")
    parser.add_argument(
        "--test", type=int, default=60, metavar="N", help="number of test pairs, numbered after the training pairs"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(320, 240),
        metavar=("W", "H"),
        help=f"width and height of the images in pixels, each at least {SMALLEST_SIZE}",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all random choices")
    options = parser.parse_args(argv)
    write_scenes(options.output, options.train, options.test, tuple(options.size), options.seed)


def write_scenes(output: Path, train: int, test: int, size: tuple[int, int], seed: int) -> None:
    """Write `train` + `test` pairs of `size` (width, height) below `output`, the lists of names last.

    A rerun writes the same files again; a run with other options replaces the files of the earlier run.

    Raises:
        InputError: a number is out of range, or `output` contains images that this program did not write.
    """
    if train < 1 or test < 0 or train + test > MOST_SCENES:
        raise InputError(
            f"--train {train} --test {test}: expected at least 1 training pair, at least 0 test pairs "
            f"and at most {MOST_SCENES} in total"
        )
    if min(size) < SMALLEST_SIZE:
        raise InputError(
            f"--size {size[0]} {size[1]}: expected a width and a height of at least {SMALLEST_SIZE} pixels"
        )
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
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
        logging.info("%s: %d pairs, boxes: %s", split, len(chosen), boxes)
        write_text(output / f"{split}.txt", "".join(f"{name}\n" for name in chosen))


def _claim(output: Path, names: Sequence[str]) -> None:
    """Raise InputError for a folder with foreign images; remove an earlier run's lists and its pairs beyond `names`."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder; expected a new folder, or one that fusion.synthetic wrote")
    ours: set[str] = set()
    if (output / MARKER).exists():
        facts = read_json(output / MARKER)
        try:
            ours = {f"{index:05}" for index in range(min(facts["train"] + facts["test"], MOST_SCENES))}
        except (KeyError, TypeError):
            raise InputError(
                f"{output / MARKER} does not state the number of pairs; expected whole numbers 'train' and 'test'"
            ) from None
    found = [path for folder in FOLDERS if (output / folder).is_dir() for path in sorted((output / folder).iterdir())]
    found = [path for path in found if path.suffix.lower() in (*EXTENSIONS, ".xml") and not path.name.startswith(".")]
    for path in found:
        if path.stem not in ours or path.suffix != (".xml" if path.parent.name == "Annotation" else ".png"):
            raise InputError(f"{path} was not written by fusion.synthetic; expected a new folder, or one that it wrote")
    for path in [output / "train.txt", output / "test.txt", *(path for path in found if path.stem not in names)]:
        path.unlink(missing_ok=True)


def _annotation(name: str, size: tuple[int, int], condition: str, boxes: Sequence[Box]) -> str:
    """Return Pascal VOC XML; coordinates are pixel edges: the box of a whole 640x480 image ends at 640, 480."""
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
