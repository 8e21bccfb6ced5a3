"""Test a detector on one variant's test images.

With `--as-is`, the detector was not trained on this variant. `--weights` may then be a `weights.pt` of any run of this
project, an ONNX model written by `ultralytics export`, or, with `--trust-weights`, a weights file of ultralytics.
`--classes` maps its classes to classes of the dataset. Detections of other classes are dropped, and a class of the
dataset that no class is mapped to has no AP.

Writes `predictions.json` (COCO results, boxes in pixels of the original images) and `ap.json` (average precision and
recall per class, size and condition by the COCO protocol, and the class confusions).
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from detection.as_is import load_as_is
from detection.average_precision import MOST_DETECTIONS, add_kept_options, check_most, read_conditions, write_scores
from detection.detector import STRIDE, describe, is_transformer, lacks_memory, load_weights, raw_detections
from detection.gpu_sharing import add_sharing_options, shared_device
from detection.images import in_network_order, read_input, resize_long_side, resized_sides
from detection.variant import Data, read_data
from pipeline.artefacts import sha256_file, versions
from pipeline.devices import DEVICES
from pipeline.stage import InputError, Progress, run, some_of, threads_available

GREY = 114  # level of the padding, as in training
MOST_CANDIDATES = 30000  # boxes of an image that enter non-maximum suppression


def letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize a uint8 image (H, W, C) to a long side of `size`, and pad it with grey to multiples of the stride.

    Returns:
        The padded image, and the offset (x, y) of the image in it.
    """
    image = resize_long_side(image, size)
    height, width, channels = image.shape
    full = [-(-side // STRIDE) * STRIDE for side in (height, width)]
    top, left = (full[0] - height) // 2, (full[1] - width) // 2
    boxed = np.full((*full, channels), GREY, np.uint8)
    boxed[top : top + height, left : left + width] = image
    return boxed, (left, top)


def suppress(
    found: torch.Tensor, confidence: float, overlap: float, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the remaining detections of one image after non-maximum suppression within each class.

    A box is a candidate for every class whose score is above `confidence`. Of two candidates of one class that overlap
    by more than `overlap`, the one with the lower score is removed; the `most` best of the others are kept. (The
    function of ultralytics stops after a time limit, so that it would lose detections on a busy machine.)

    Args:
        found: (4 + K, N): centre x, centre y, width, height, and a score for each of K classes.
        confidence: least score.
        overlap: largest intersection over union.
        most: number of detections to keep.

    Returns:
        Boxes (M, 4) as xmin, ymin, xmax, ymax, scores (M,) in decreasing order, class indices (M,).
    """
    centre, half, scores = found[:2].T, found[2:4].T / 2, found[4:].T
    boxes = torch.cat([centre - half, centre + half], dim=1)
    index, label = torch.where(scores > confidence)
    kept = scores[index, label]
    if len(kept) > MOST_CANDIDATES:
        best = kept.argsort(descending=True, stable=True)[:MOST_CANDIDATES]
        index, label, kept = index[best], label[best], kept[best]
    left = torchvision.ops.batched_nms(boxes[index], kept, label, overlap)[:most]
    return boxes[index[left]], kept[left], label[left]


@torch.inference_mode()
def predict(
    model: Any, data: Data, device: str, size: int, batch: int, confidence: float, overlap: float, most: int
) -> list[dict[str, Any]]:
    """Return the detections in all images of `data` as COCO results, boxes clipped to the original image.

    RT-DETR needs no suppression, so that `overlap` is ignored for it.
    """
    model = model.to(device).eval()
    overlap = 1.0 if is_transformer(model) else overlap
    progress = Progress(f"test {data.variant}", len(data.images), "images")
    results = []
    for images in _batches(data.truth["images"], batch):
        boxed = [letterbox(read_input(data, image), size) for image in images]
        pixels = np.stack([in_network_order(image) for image, _ in boxed])
        try:
            found = raw_detections(model, torch.from_numpy(np.ascontiguousarray(pixels)).to(device).float() / 255)
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise InputError(
                f"--batch {batch} of --image-size {size} does not fit the memory of {device}; use a smaller --batch, "
                "which does not change the result"
            ) from error
        for image, (_, offset), raw in zip(images, boxed, found, strict=True):
            results += _coco_results(image, offset, size, *suppress(raw, confidence, overlap, most))
        progress.step(len(images))
    return results


def _coco_results(
    image: dict[str, Any],
    offset: tuple[int, int],
    size: int,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
) -> list[dict[str, Any]]:
    """Return the result of `suppress` for a letterboxed image in pixels of the original image, clipped to it."""
    boxes, scores, labels = (x.cpu().numpy() for x in (boxes, scores, labels))
    sides = np.array([image["width"], image["height"]] * 2, dtype=float)
    resized = resized_sides(image["width"], image["height"], size)
    edges = np.clip((boxes.astype(float) - np.tile(offset, 2)) * sides / np.tile(resized, 2), 0, sides)
    return [
        {
            "image_id": image["id"],
            "category_id": int(label) + 1,
            "bbox": [round(float(v), 4) for v in (xmin, ymin, xmax - xmin, ymax - ymin)],
            "score": float(value),
        }
        for (xmin, ymin, xmax, ymax), value, label in zip(edges, scores, labels, strict=True)
        if xmax > xmin and ymax > ymin
    ]


def _batches(images: Sequence[dict[str, Any]], batch: int) -> Iterator[list[dict[str, Any]]]:
    """Yield batches of images; all images of a batch have the same size."""
    by_size = sorted(images, key=lambda image: (image["width"], image["height"]))
    for _, group in groupby(by_size, key=lambda image: (image["width"], image["height"])):
        same = list(group)
        for start in range(0, len(same), batch):
            yield same[start : start + batch]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the detector, score its predictions and write the results."""
    args = _parse(argv)
    kept = detections_kept(args)
    data = read_data(args.data, "test")
    if (args.classes or args.trust_weights) and not args.as_is:
        raise InputError("--classes and --trust-weights require --as-is")
    read = _as_is if args.as_is else _trained
    model, size, about, source = read(args, data)
    overlap = 1.0 if getattr(model, "suppressed", False) and not model.shared else args.iou
    conditions = read_conditions(args.conditions)
    with shared_device(args) as (device, _):
        predictions = predict(model, data, device, size, args.batch, args.conf, overlap, kept)
        computed_on = {
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
        }
    write_scores(
        args.output,
        data.truth,
        predictions,
        conditions,
        {"variant": data.variant, **about},
        {
            "weights": sha256_file(args.weights),
            **source,
            "data": data.digests(),
            "image_size": size,
            "confidence": args.conf,
            "nms_iou": args.iou,
            "max_detections": kept,
            **computed_on,
            "versions": versions("torch", "torchvision", "ultralytics", "opencv-python-headless"),
        },
        args.most_detections,
        about["as_is"]["unknown"] if args.as_is else (),
    )


def detections_kept(args: argparse.Namespace) -> int:
    """Return the number of detections to keep per image; raise InputError for invalid numbers."""
    if args.batch < 1:
        raise InputError(f"--batch {args.batch}: expected at least 1")
    check_most(args.most_detections)
    kept = args.most_detections if args.max_detections is None else args.max_detections
    if kept < args.most_detections > MOST_DETECTIONS:
        raise InputError(
            f"--most-detections {args.most_detections} is more than --max-detections {kept} keeps per image; expected "
            "--max-detections of at least --most-detections"
        )
    return kept


def _trained(args: argparse.Namespace, data: Data) -> tuple[Any, int, dict[str, Any], dict[str, Any]]:
    """Return the result of `read_trained` for the weights in the options."""
    return read_trained(args.weights, data, args.data, args.image_size)


def read_trained(
    weights: Path, data: Data, described: Path, image_size: int | None
) -> tuple[Any, int, dict[str, Any], dict[str, Any]]:
    """Return a detector of detection.train, the image size, facts about the detector, and facts about its training.

    Args:
        weights: the file that detection.train wrote.
        data: the data to test on.
        described: the data.yaml of the data, for messages.
        image_size: long side in pixels; None for the size used in training.

    Raises:
        InputError: the detector has other classes than the data, or another number of bands.
    """
    model, facts = load_weights(weights)
    if tuple(facts["classes"]) != data.classes:
        raise InputError(
            f"{weights} has the classes {facts['classes']}; expected those of {described}: {list(data.classes)}"
        )
    if facts.get("inside") != data.inside:
        kinds = [kind or "one image of three channels" for kind in (facts.get("inside"), data.inside)]
        raise InputError(f"{weights} is a detector for {kinds[0]}; expected one for {kinds[1]}, as in {described}")
    if facts["variant"] != data.variant:
        logging.warning("warning: %s was trained on %s and is tested on %s", weights, facts["variant"], data.variant)
    about = {"seed": facts["seed"], "detector": describe(facts["model"], facts.get("architecture"))}
    source = {"training": facts["digest"], "trained_on": facts["variant"], "start": facts["start"]}
    return model, image_size or facts["image_size"], about, source


def _as_is(args: argparse.Namespace, data: Data) -> tuple[Any, int, dict[str, Any], dict[str, Any]]:
    """Return a detector that was trained elsewhere, in the form of `_trained`; log the classes without a partner."""
    if data.inside:
        raise InputError(f"--as-is: {args.data} is of {data.inside}, which has two bands; expected one image per pair")
    threads = threads_available(args.threads)
    model, facts = load_as_is(args.weights, args.classes, data.classes, args.trust_weights, threads)
    size = args.image_size or facts["image_size"]
    if facts["fixed"] and size != facts["image_size"]:
        raise InputError(
            f"--image-size {size}: {args.weights} was exported for {facts['image_size']} pixels; expected this size"
        )
    for kind, whose in (("dropped", "the detector's classes"), ("unknown", "the dataset's classes")):
        if names := facts["as_is"][kind]:
            logging.info("%s without a partner: %s", whose, some_of(names))
    return model, size, {"seed": 0, "detector": facts["detector"], "as_is": facts["as_is"]}, {}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="weights.pt written by detection.train; with --as-is also others"
    )
    parser.add_argument("--as-is", action="store_true", help="the detector was trained elsewhere; it is used unchanged")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="THEIRS=OURS",
        help="with --as-is: classes of the detector and the classes of the dataset that they correspond to",
    )
    parser.add_argument(
        "--trust-weights",
        action="store_true",
        help="with --as-is: --weights may be a pickle. Loading a pickle can execute arbitrary code: use this only for "
        "files whose origin you trust",
    )
    parser.add_argument("--data", type=Path, required=True, help="a variant's data.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--conditions",
        type=Path,
        help="conditions.json of the split, if there is one, to score day, night, ... separately",
    )
    add_testing_options(parser)
    return parser.parse_args(argv)


def add_testing_options(parser: argparse.ArgumentParser, sharing: bool = True) -> None:
    """Add the options for testing a detector and for the device; with `sharing`, also those for sharing a GPU."""
    parser.add_argument("--image-size", type=int, help="long side in pixels (default: as in training)")
    parser.add_argument("--batch", type=int, default=16, help="images per batch (default: 16)")
    parser.add_argument("--conf", type=float, default=0.001, help="least score of a detection (default: 0.001)")
    parser.add_argument(
        "--iou", type=float, default=0.7, help="IoU threshold of non-maximum suppression (default: 0.7)"
    )
    add_kept_options(parser)
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: a GPU if there is one, else the CPU (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    if sharing:
        add_sharing_options(parser)


if __name__ == "__main__":
    run(main)
