"""Test a variant's trained detectors on corrupted test images.

Nothing is trained again. One band of the test images was corrupted by pipeline.corruptions. The detectors of that band
are tested on its corrupted images, `stacked` and `twostream` on the corrupted pairs, and the detectors of a fused
variant on the images that fusion.fuse made from the corrupted pairs (`--fused`). The ground-truth boxes are not
changed: if the infrared image is shifted, they still fit the visible image.

Writes LEVEL/seedS/predictions.json (COCO results) for every level and detector, and tested.json: the variant, the kind
of corruption and its levels, and the digests of the predictions, the images and the weights.
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
from pipeline.corruptions import read_description
from pipeline.devices import claimed_device
from pipeline.stage import InputError, run

TESTED = "tested.json"


def corrupted_data(data: Data, worse: Path, facts: Mapping[str, Any], level: str, fused: Path | None = None) -> Data:
    """Return a variant's test data with its images replaced by corrupted ones of one level.

    Args:
        data: the variant's test data.
        worse: folder that pipeline.corruptions wrote.
        facts: content of worse.json in that folder.
        level: one of its levels.
        fused: folder that fusion.fuse made from the corrupted pairs, for a variant that is neither a band nor fused
            inside the detector.

    Raises:
        InputError: the variant does not see the band; a folder of fused images is missing, or given but not needed; an
            image is missing or is not the file that its folder describes.
    """
    band = facts["band"]
    seen = data.inside is not None or data.variant == band
    if data.variant in BANDS and not seen:
        raise InputError(
            f"{worse} has corrupted {band} images, which {data.variant} does not see; expected a variant that does"
        )
    if seen == bool(fused):
        raise InputError(
            f"{data.variant} {'with' if fused else 'without'} --fused; expected --fused for fused variants only"
        )
    folder = (fused or worse) / level
    images = match_images(data.truth, [folder], folder / "manifest.csv" if fused else None)
    digests = {name: sha256_file(file) for name, file in images.items()}
    if fused:
        manifest, stated = read_csv(folder / "manifest.csv")
        wrong = [r.name for r in manifest.itertuples() if digests.get(r.name, r.sha256) != r.sha256]
        if wrong or stated.get("worse") != facts["kind"]:
            raise InputError(
                f"{folder} contains other images than its manifest lists, or images of another kind than "
                f"{facts['kind']}; fuse again"
            )
    elif facts["images"].get(level) != sha256_lines(f"{name} {digests.get(name)}" for name in facts["names"]):
        raise InputError(f"{folder} contains other images than {worse} describes; corrupt the images again")
    if data.inside and band == "infrared":
        return replace(data, infrared=images, infrared_sha256=digests, infrared_range=None)
    # Fused and corrupted images have 8-bit levels, so they have no infrared range. If the detector fuses inside, the
    # range belongs to the infrared files, which are not corrupted here.
    return replace(data, images=images, sha256=digests, infrared_range=data.infrared_range if data.inside else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every detector on every level and write the predictions and tested.json."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the variant's data.yaml")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="weights.pt of the variant, every seed")
    parser.add_argument("--worse", type=Path, required=True, help="folder that pipeline.corruptions wrote")
    parser.add_argument("--fused", type=Path, help="for a fused variant: folder that fusion.fuse --worse wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    add_testing_options(parser, sharing=False)
    args = parser.parse_args(argv)
    kept = detections_kept(args)
    data, facts = read_data(args.data, "test"), read_description(args.worse)
    if missing := [image["file_name"] for image in data.truth["images"] if image["file_name"] not in facts["names"]]:
        raise InputError(f"{args.worse} lacks the image {missing[0]!r} of {args.data}; expected all test images")
    levels = {level: corrupted_data(data, args.worse, facts, level, args.fused) for level in facts["levels"]}
    tested: dict[str, dict[str, str]] = {level: {} for level in levels}
    weights: dict[str, str] = {}
    with claimed_device(args.device, args.threads) as device:
        for file in args.weights:
            model, size, about, _ = read_trained(file, data, args.data, args.image_size)
            seed = str(about["seed"])
            if seed in weights:
                raise InputError(f"--weights names two detectors of seed {seed}; expected one for each seed")
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
