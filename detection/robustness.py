"""Test a variant's detectors, as they were trained, on test images that were made worse.

Nothing is trained again. One band was made worse by pipeline.corruptions; a band's own detectors and those that fuse
inside themselves are shown its files, those of a fused variant what fusion.fuse made of the pairs anew (`--fused`). The
boxes are those of the images as they were: where infrared is shifted, they stay the visible's.

Writes LEVEL/seedS/predictions.json (COCO results) for every level and detector, and tested.json: whose detectors, which
kind and levels, the digests of the predictions, of the images and of the weights.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detection.late import BANDS
from detection.test import add_testing_options, detections_kept, predict, read_trained
from detection.variant import Data, match_images, read_data
from pipeline.artefacts import read_csv, sha256_file, sha256_json, sha256_lines, versions, write_json, write_json_list
from pipeline.corruptions import read_worse
from pipeline.devices import claimed_device
from pipeline.stage import InputError, run

TESTED = "tested.json"


def worse_data(data: Data, worse: Path, facts: Mapping[str, Any], level: str, fused: Path | None = None) -> Data:
    """Return a variant's test data with the images of one level in the place of its own.

    Args:
        data: the variant's.
        worse: folder that pipeline.corruptions wrote.
        facts: its worse.json.
        level: one of its levels.
        fused: folder that fusion.fuse wrote of it, for a variant that is neither a band nor fused in the detector.

    Raises:
        InputError: the variant does not see the band; it has no folder of fused images, or has one and needs none; an
            image is missing or is not the file that its folder describes.
    """
    band = facts["band"]
    seen = data.inside is not None or data.variant == band
    if data.variant in BANDS and not seen:
        raise InputError(f"{worse} made {band} worse, which {data.variant} does not see; wanted no test of it")
    if seen == bool(fused):
        raise InputError(
            f"{data.variant} {'with' if fused else 'without'} --fused; wanted it for fused variants, and for no other"
        )
    folder = (fused or worse) / level
    images = match_images(data.truth, [folder], folder / "manifest.csv" if fused else None)
    digests = {name: sha256_file(file) for name, file in images.items()}
    if fused:
        manifest, stated = read_csv(folder / "manifest.csv")
        wrong = [r.name for r in manifest.itertuples() if digests.get(r.name, r.sha256) != r.sha256]
        if wrong or stated.get("worse") != facts["kind"]:
            raise InputError(f"{folder} holds other images than its manifest, or not of {facts['kind']}; fuse again")
    elif facts["images"].get(level) != sha256_lines(f"{name} {digests.get(name)}" for name in facts["names"]):
        raise InputError(f"{folder} holds other images than {worse} describes; make them again")
    if data.inside and band == "infrared":
        return replace(data, infrared=images, infrared_sha256=digests, infrared_range=None)
    # Levels already, as fused images are; but of a detector that fuses itself the range is of the other band's files.
    return replace(data, images=images, sha256=digests, infrared_range=data.infrared_range if data.inside else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict for every detector and level, write."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the variant's data.yaml")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="weights.pt of every seed")
    parser.add_argument("--worse", type=Path, required=True, help="folder that pipeline.corruptions wrote")
    parser.add_argument("--fused", type=Path, help="folder that fusion.fuse --worse wrote, for a fused variant")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    add_testing_options(parser, sharing=False)
    args = parser.parse_args(argv)
    kept = detections_kept(args)
    data, facts = read_data(args.data, "test"), read_worse(args.worse)
    if missing := [image["file_name"] for image in data.truth["images"] if image["file_name"] not in facts["names"]]:
        raise InputError(f"{args.worse} has no image {missing[0]!r} of {args.data}; wanted all test images made worse")
    levels = {level: worse_data(data, args.worse, facts, level, args.fused) for level in facts["levels"]}
    tested: dict[str, dict[str, str]] = {level: {} for level in levels}
    weights: dict[str, str] = {}
    with claimed_device(args.device, args.threads) as device:
        for file in args.weights:
            model, size, about, _ = read_trained(file, data, args.data, args.image_size)
            seed = str(about["seed"])
            if seed in weights:
                raise InputError(f"--weights names two detectors of seed {seed}; wanted one of each")
            weights[seed] = sha256_file(file)
            for level, shown in levels.items():
                found = predict(model, shown, device, size, args.batch, args.conf, args.iou, kept)
                write_json_list(args.output / level / f"seed{seed}" / "predictions.json", found)
                tested[level][seed] = sha256_json(found)
        computed_on = {
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
        }
    write_json(
        args.output / TESTED,
        {
            "variant": data.variant,
            "kind": facts["kind"],
            "band": facts["band"],
            "levels": list(levels),
            "predictions": tested,
            "weights": weights,
            "provenance": {
                "data": {level: shown.digests() for level, shown in levels.items()},
                "image_size": size,
                "confidence": args.conf,
                "nms_iou": args.iou,
                "max_detections": kept,
                **computed_on,
                "versions": versions("torch", "torchvision", "ultralytics", "opencv-python-headless"),
            },
        },
    )


if __name__ == "__main__":
    run(main)
