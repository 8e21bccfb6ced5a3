"""A tiny data set in M3FD's layout: bright blocks on noise, in both bands."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.boxes import Box
from detection.datasets.m3fd import CLASSES


def voc(boxes: Sequence[Box], width: int = 96, height: int = 64) -> str:
    objects = "".join(
        f"<object><name>{box.name}</name><bndbox><xmin>{box.xmin}</xmin><ymin>{box.ymin}</ymin>"
        f"<xmax>{box.xmax}</xmax><ymax>{box.ymax}</ymax></bndbox></object>"
        for box in boxes
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


@pytest.fixture
def write_voc() -> Callable[..., None]:
    def write(path: Path, boxes: Sequence[Box], width: int = 96, height: int = 64) -> None:
        path.write_text(voc(boxes, width, height), encoding="utf-8")

    return write


def make_m3fd(root: Path, names: Sequence[str], width: int = 96, height: int = 64) -> Path:
    rng = np.random.default_rng(5)
    for folder in ("Vis", "Ir", "Annotation"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        visible = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        infrared = rng.integers(0, 60, (height, width), dtype=np.uint8)
        x, y = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 32))
        visible[y : y + 24, x : x + 32] = (40, 160, 220)
        infrared[y : y + 24, x : x + 32] = 220
        cv2.imwrite(str(root / "Vis" / f"{name}.png"), visible)
        cv2.imwrite(str(root / "Ir" / f"{name}.png"), infrared)
        box = Box(CLASSES[number % 2], x, y, x + 32, y + 24)
        (root / "Annotation" / f"{name}.xml").write_text(voc([box], width, height), encoding="utf-8")
    return root


@pytest.fixture
def m3fd(tmp_path: Path) -> Path:
    """Six pairs, one of whose names has a space, a quote and a letter beyond ASCII."""
    return make_m3fd(tmp_path / "m3fd", ["00000", "00001", "00002", "00003", "a b's ü", "z"])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `visible/data.yaml` and `infrared/data.yaml` on ten training and four test pairs."""
    from detection import prepare, variant

    base = tmp_path_factory.mktemp("tiny")
    make_m3fd(base / "m3fd", [f"{number:02}" for number in range(14)])
    options = ["--split", "random", "--train", "10", "--test", "4"]
    prepare.main(["--dataset", "m3fd", "--root", str(base / "m3fd"), "--output", str(base / "split"), *options])
    for name, folder in (("visible", "Vis"), ("infrared", "Ir")):
        variant.main(
            ["--variant", name, "--prepared", str(base / "split"), "--images", str(base / "m3fd" / folder)]
            + ["--output", str(base / name / "data.yaml")]
        )
    return base
