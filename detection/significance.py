"""How sure each average precision is, and which variants really differ: a bootstrap over the test images.

The images are drawn again, with replacement, the same for all variants; where there are several seeds, the seeds too.
A draw gives each image a weight, and the average precision of weighted images follows from matches that are made once:
no evaluator runs again. With weights of one it is pycocotools' number.

Writes significance.json: an interval for every variant, class and average; and for every pair of variants the
difference of the averages, its interval, its p value (normal, with the bootstrap's standard error: a share of
resamples could never fall below the correction for many comparisons), and that value after Holm's correction.

Sources: B. Efron and R. J. Tibshirani, An introduction to the bootstrap, 1993, chapters 13 and 16; S. Holm, A simple
sequentially rejective multiple test procedure, 1979.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from detection.average_precision import evaluate
from detection.truth import read_truth
from fusion.metrics.statistics import holm
from pipeline.artefacts import read_json, sha256_json, versions, write_json
from pipeline.compiled import compiled
from pipeline.stage import InputError, Progress, run

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Matches:
    """One class's detections in all images, strongest first, and what they matched.

    Attributes:
        image: (D,) index of the image of each detection.
        hit: (T, D) whether it matched a box at each of the overlaps.
        boxes: (N,) ground-truth boxes in each image.
    """

    image: np.ndarray
    hit: np.ndarray
    boxes: np.ndarray


def accumulate_matches(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[Matches]:
    """Return the matches of each class, images in the order of their ids; pycocotools makes them."""
    evaluation = evaluate(truth, predictions, areas=("all",))
    images, overlaps = len(evaluation.params.imgIds), len(evaluation.params.iouThrs)
    classes = []
    for k in range(len(evaluation.params.catIds)):
        found = evaluation.evalImgs[k * images : (k + 1) * images]
        boxes = np.array([0 if e is None else np.sum(~np.asarray(e["gtIgnore"], bool)) for e in found], float)
        some = [(number, e) for number, e in enumerate(found) if e is not None and len(e["dtScores"])]
        if not some:
            classes.append(Matches(np.zeros(0, int), np.zeros((overlaps, 0), bool), boxes))
            continue
        scores = np.concatenate([e["dtScores"] for _, e in some])
        order = np.argsort(-scores, kind="mergesort")  # as the evaluator: of equal scores the earlier image goes first
        image = np.repeat([number for number, _ in some], [len(e["dtScores"]) for _, e in some])
        hit = np.concatenate([e["dtMatches"] for _, e in some], axis=1) > 0
        classes.append(Matches(image[order], np.ascontiguousarray(hit[:, order]), boxes))
    return classes


def weighted_average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Return AP@[0.5:0.95] of one class for each row of `weights` (B, N), how often each image counts; (B,).

    NaN where no box has weight. Whole weights give what the evaluator would on images repeated so often.
    """
    # Only detections that match raise the recall, so only there the curve need be known.
    hits = [np.flatnonzero(row) for row in matches.hit]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in hits])]).astype(np.int64)
    recalls = np.linspace(0.0, 1.0, 101)
    return _weighted(
        matches.image.astype(np.int64),
        np.concatenate(hits).astype(np.int64),
        starts,
        matches.boxes,
        np.asarray(weights, np.float64),
        recalls,
    )


@partial(compiled, options={})  # nothing contracted: a product is rounded before it is added
def _weighted(image, hits, starts, boxes, weights, recalls):  # pragma: no cover (compiled)
    result = np.empty(len(weights))
    overlaps = len(starts) - 1
    total = np.empty(len(image))
    precision, recall = np.empty(len(image)), np.empty(len(image))
    for b in range(len(weights)):
        weight = weights[b]
        wanted = 0.0
        for n in range(len(boxes)):
            wanted += weight[n] * boxes[n]
        if wanted == 0:
            result[b] = np.nan
            continue
        running = 0.0
        for d in range(len(image)):
            running += weight[image[d]]
            total[d] = running
        summed = 0.0
        for t in range(overlaps):
            count, true = 0, 0.0
            for h in range(starts[t], starts[t + 1]):
                d = hits[h]
                w = weight[image[d]]
                if w > 0:
                    true += w
                    recall[count] = true / wanted
                    precision[count] = true / (total[d] + 2.220446049250313e-16)
                    count += 1
            for c in range(count - 2, -1, -1):
                if precision[c] < precision[c + 1]:
                    precision[c] = precision[c + 1]
            c = 0
            for r in range(len(recalls)):
                while c < count and recall[c] < recalls[r]:
                    c += 1
                if c == count:
                    break
                summed += precision[c]
        result[b] = summed / (overlaps * len(recalls))
    return result


def draw_images(images: int, samples: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn in each of `samples` draws of as many images, (samples, images)."""
    rng = np.random.default_rng([seed, 0])
    return rng.multinomial(images, np.full(images, 1 / images), size=samples).astype(np.float64)


def bootstrap(
    matches: Mapping[str, Sequence[Sequence[Matches]]], samples: int = 1000, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return each variant's AP as measured, (K + 1,), and under every draw, (samples, K + 1), the average last.

    Values are means over the seeds; a draw takes the same images, and the same seeds, for all variants.

    Args:
        matches: for each variant, for each seed, the classes' matches.
        samples: draws.
        seed: of the draws.
    """
    first = next(iter(matches.values()))
    images, seeds = len(first[0][0].boxes), len(first)
    weights = np.concatenate([np.ones((1, images)), draw_images(images, samples, seed)])
    chosen = np.random.default_rng([seed, 1]).integers(0, seeds, (samples, seeds))
    shares = np.stack([(chosen == s).mean(axis=1) for s in range(seeds)])  # (S, samples)
    shares = np.concatenate([np.full((seeds, 1), 1 / seeds), shares], axis=1)
    measured, drawn = {}, {}
    progress = Progress("bootstrap", len(matches) * seeds, "detectors")
    for variant, runs in matches.items():
        values = np.zeros((samples + 1, len(runs[0]) + 1))
        for share, classes in zip(shares, runs, strict=True):
            precision = np.stack([weighted_average_precision(one, weights) for one in classes], axis=1)
            values += share[:, None] * np.column_stack([precision, _mean_of_defined(precision)])
            progress.step()
        measured[variant], drawn[variant] = values[0], values[1:]
    return measured, drawn


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    sums = np.where(defined, values, 0).sum(axis=1)
    return np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the percentile interval of `drawn`, without undefined draws; NaN where all are."""
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def p_value(difference: float, drawn: np.ndarray) -> float:
    """Return the two-sided p value that a difference is of chance: normal, with the standard deviation of the draws."""
    drawn = drawn[~np.isnan(drawn)]
    if math.isnan(difference) or drawn.size < 2:
        return math.nan
    error = float(drawn.std(ddof=1))
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / error / math.sqrt(2))


def compare(
    classes: Sequence[str], measured: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the intervals of all variants and the comparison of the average of every two, Holm-corrected."""
    names = [*classes, "Average"]
    variants = {
        variant: {
            name: dict(zip(("AP", "low", "high"), (float(values[k]), *interval(drawn[variant][:, k])), strict=True))
            for k, name in enumerate(names)
        }
        for variant, values in measured.items()
    }
    comparisons = []
    for first, second in combinations(measured, 2):
        difference = float(measured[first][-1] - measured[second][-1])
        draws = drawn[first][:, -1] - drawn[second][:, -1]
        low, high = interval(draws)
        comparisons.append(
            {"first": first, "second": second, "difference": difference, "low": low, "high": high}
            | {"p": p_value(difference, draws)}
        )
    for comparison, corrected in zip(comparisons, holm([c["p"] for c in comparisons]), strict=True):
        comparison["p_holm"] = corrected
        comparison["different"] = bool(corrected < 1 - CONFIDENCE)
    return {"variants": variants, "comparisons": comparisons}


def main(argv: Sequence[str] | None = None) -> None:
    """Resample, compare, write."""
    args = _parse(argv)
    if args.samples < 100:
        raise InputError(f"--samples {args.samples}: wanted at least 100, for the ends of an interval")
    truth = read_truth(args.truth)
    files = runs_by_variant(args.predictions)
    seeds = sorted(next(iter(files.values())))
    matches, digests = {}, {}
    for variant, by_seed in files.items():
        predictions = [read_json(by_seed[seed]) for seed in seeds]
        matches[variant] = [accumulate_matches(truth, one) for one in predictions]
        digests[variant] = {str(seed): sha256_json(one) for seed, one in zip(seeds, predictions, strict=True)}
    measured, drawn = bootstrap(matches, args.samples, args.seed)
    result = compare([category["name"] for category in truth["categories"]], measured, drawn)
    write_json(
        args.output,
        {
            "method": "percentile bootstrap over test images" + (" and seeds" if len(seeds) > 1 else ""),
            "correction": f"Holm over {len(result['comparisons'])} comparisons of averages",
            "confidence": CONFIDENCE,
            "samples": args.samples,
            "seed": args.seed,
            "seeds": seeds,
            "images": len(truth["images"]),
            **result,
            "provenance": {
                "labels": sha256_json(truth),
                "predictions": digests,
                "versions": versions("numpy", "numba", "pycocotools"),
            },
        },
    )
    for variant, values in result["variants"].items():
        average = values["Average"]
        logging.info("%-12s AP %.3f  %.3f to %.3f", variant, average["AP"], average["low"], average["high"])
    real = sum(c["different"] for c in result["comparisons"])
    logging.info("%d of %d differences are real at 95 %% after correction", real, len(result["comparisons"]))


def runs_by_variant(words: Sequence[str]) -> dict[str, dict[int, Path]]:
    """Return the files of VARIANT/SEED=FILE words by variant and seed; every variant has the same seeds.

    Raises:
        InputError: a word is of another form, or names a variant and seed again; a variant has other seeds.
    """
    files: dict[str, dict[int, Path]] = {}
    for word in words:
        name, equals, file = word.partition("=")
        variant, slash, seed = name.rpartition("/")
        if not (equals and slash and seed.isdigit()):
            raise InputError(f"--predictions {word}: wanted VARIANT/SEED=FILE")
        if int(seed) in files.setdefault(variant, {}):
            raise InputError(f"--predictions names {variant}/{seed} twice; wanted one file for each")
        files[variant][int(seed)] = Path(file)
    seeds = sorted(next(iter(files.values())))
    for variant, by_seed in files.items():
        if sorted(by_seed) != seeds:
            raise InputError(f"--predictions: {variant!r} has the seeds {sorted(by_seed)}, expected {seeds}")
    return files


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.significance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="VARIANT/SEED=FILE",
        help="predictions.json of every variant and seed",
    )
    parser.add_argument("--samples", type=int, default=1000, help="draws (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
