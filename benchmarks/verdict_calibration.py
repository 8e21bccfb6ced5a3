"""Check the error rates of the verdict on simulated test sets: variants do not differ, or one is better by 0.04 AP.

    python benchmarks/verdict_calibration.py --json calibration.json

Sixteen variants are tested on images in M3FD's sequences (lengths and boxes are from `m3fd_sequences.csv`). Each
variant has a random effect in every image, correlated within a sequence, and training noise in some cases. The
simulation replaces everything up to the output of pycocotools, the scores and matches. From there on, the project's own
functions run: `split_by_scene`, `compare`, `bootstrap`, `describe`.

Printed and written for each case:

- `familywise`: share of runs in which any two *methods* are reported to differ, with its Clopper-Pearson interval. The
  statement requires three seeds: cases without training noise are run with three seeds of equal quality. In `oneseed`
  the statement is never made.
- `conditional_familywise`: share of runs in which any two *trained detectors* are reported to differ although they are
  equally good; from one seed, or from three in the cases of three. In cases with training noise, each seed's noise is
  the same for all variants here, so that the trained detectors are equally good.
- `power`: share of the pairs with the better variant that are reported to differ, as methods in the cases of three
  seeds, else as trained detectors. `oracle_power`: the same for a normal test with the true standard error and Holm's
  correction.
- `coverage`: of the 95 % intervals of the average and of classes with 30 boxes or more, for the detectors as trained.
- `old_familywise`: of this project's former test: images and seeds drawn one by one, normal p, Holm.
- `untested`: share of runs with too few scenes; `familywise_tested` and `conditional_familywise_tested` are shares of
  the other runs.
- `taken_for_methods`: share of runs in which trained detectors are reported to differ, correctly, because of training
  noise. To read this as a statement about methods would be wrong this often.
"""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from detection.accumulation import Matches, scene_boxes, weighted_average_precision
from detection.differences import LEVEL, compare, split_by_scene
from detection.intervals import bootstrap, describe
from fusion.metrics.statistics import holm
from pipeline.artefacts import versions, write_json
from pipeline.stage import Progress, run, threads_available

VARIANTS = 16
GAIN = 0.04
NOISE = 0.007
ENOUGH_BOXES = 30
SEQUENCES = Path(__file__).with_name("m3fd_sequences.csv")
OVERLAPS = np.arange(0.5, 1.0, 0.05)
# Log-odds of a score: the means for an object and for a lookalike, and the standard deviations of the part that all
# detectors share, of a variant's effect in an image, of a detector's effect at an object, and of its effect on the
# overlap. With these values AP is about 0.5, and the standard error of a difference of two variants over 400
# independent images is about 0.01, as for YOLOv5 on M3FD. The effect in an image dominates, so that correlation within
# a sequence matters: the images' contributions to a difference are correlated by about 0.18 and 0.45 if the effects are
# correlated by 0.3 and 0.7.
OBJECT, LOOKALIKE, COMMON, IMAGE, OWN, PLACE = 1.3, -1.7, 0.9, 0.55, 0.1, 0.01


@dataclass(frozen=True)
class Case:
    """A simulated case.

    images: numbers of test images; of several, the result with the highest error rate counts.
    correlation: within sequences; None samples images one by one.
    seeds: number of trainings of each variant.
    noise: standard deviation of AP between seeds.
    """

    name: str
    images: tuple[int, ...]
    correlation: float | None
    seeds: int
    noise: float


CASES = (
    Case("independent", (400,), None, 1, 0.0),
    Case("scenes03", (400, 1200), 0.3, 1, 0.0),
    Case("scenes07", (400, 1200), 0.7, 1, 0.0),
    Case("oneseed", (400,), None, 1, NOISE),
    Case("threeseeds", (400,), None, 3, NOISE),
    Case("threeseeds_scenes", (1200,), 0.3, 3, NOISE),
)


@lru_cache
def sequences() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the images of each of M3FD's sequences, (Q,), its boxes per image and class, (Q, K), and the classes."""
    table = np.loadtxt(SEQUENCES, delimiter=",", skiprows=1)
    names = tuple(SEQUENCES.read_text(encoding="utf-8").splitlines()[0].split(",")[2:])
    return table[:, 1].astype(int), table[:, 2:] / table[:, 1:2], names


def draw_test_set(
    rng: np.random.Generator, images: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return each image's scene, (N,), each class's boxes in each image, and the images of each class's lookalikes.

    With `whole`, complete sequences are sampled until `images` are reached; otherwise each image is its own scene.
    """
    lengths, rates, _ = sequences()
    if whole:
        order = rng.permutation(len(lengths))
        order = order[: np.searchsorted(np.cumsum(lengths[order]), images) + 1]
        scene = np.repeat(np.arange(len(order)), lengths[order])
        sequence = order[scene]
    else:
        scene = np.arange(images)
        sequence = rng.choice(len(lengths), images, p=lengths / lengths.sum())
    boxes = rng.poisson(rates[sequence]).T
    lookalikes = [
        np.repeat(np.arange(len(scene)), rng.poisson(0.1 + 0.5 * rate, len(scene))) for rate in rates.mean(axis=0)
    ]
    return scene, boxes, lookalikes


def simulate(
    rng: np.random.Generator, quality: np.ndarray, images: int, correlation: float | None
) -> tuple[list[list[list[Matches]]], np.ndarray, int]:
    """Return the matches of variants and seeds with this `quality` (V, S), each image's scene, and the scene count."""
    variants, seeds = quality.shape
    scene, boxes, lookalikes = draw_test_set(rng, images, correlation is not None)
    scenes, shared = int(scene[-1]) + 1, correlation or 0.0

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    # Half of the variance of an effect in a scene or an image is common to a variant's seeds, half is each seed's own.
    effect = np.sqrt(shared / 2) * (normal(variants, 1, scenes) + normal(variants, seeds, scenes))[:, :, scene]
    effect += np.sqrt((1 - shared) / 2) * (normal(variants, 1, len(scene)) + normal(variants, seeds, len(scene)))
    effect = (IMAGE * effect + quality[:, :, None].astype(np.float32)).reshape(variants * seeds, -1)
    detectors: list[list[Matches]] = [[] for _ in range(variants * seeds)]
    for number, false in zip(boxes, lookalikes, strict=True):
        true = np.repeat(np.arange(len(scene)), number)
        image = np.concatenate([true, false])
        odds = np.repeat([OBJECT, LOOKALIKE], [len(true), len(false)]) + COMMON * normal(len(image))
        odds = odds.astype(np.float32) + OWN * normal(len(detectors), len(image))
        odds[:, : len(true)] += effect[:, true]
        odds[:, len(true) :] -= effect[:, false]
        # The overlap with the true box grows with the score, and is too small for a match for some.
        overlap = (
            0.72 + 0.06 * odds[:, : len(true)] + 0.1 * normal(len(true)) + PLACE * normal(len(detectors), len(true))
        )
        level = np.zeros(odds.shape, np.int8)
        level[:, : len(true)] = np.searchsorted(OVERLAPS, np.minimum(overlap, 0.99).ravel()).reshape(overlap.shape)
        order = np.argsort(-odds, axis=1)
        counts = (odds > -3).sum(axis=1)  # detections with lower log-odds are dropped
        for detector, columns, count in zip(range(len(detectors)), order, counts, strict=True):
            kept = columns[:count]
            hit = level[detector, kept] > np.arange(len(OVERLAPS), dtype=np.int8)[:, None]
            detectors[detector].append(Matches(image[kept], hit, number.astype(float)))
    return [detectors[v * seeds : (v + 1) * seeds] for v in range(variants)], scene, scenes


@lru_cache
def truth_by_quality(images: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Return qualities (Q,), and at each the AP of each class and the average over very many images, (Q, K + 1)."""
    qualities = np.linspace(-0.3, 0.6, 10)
    values = []
    for quality in qualities:
        matches, *_ = simulate(np.random.default_rng(99), np.array([[quality]]), images, None)
        found = [weighted_average_precision(one, np.ones((1, images)))[0] for one in matches[0][0]]
        values.append([*found, np.mean(found)])
    return qualities, np.array(values)


def quality_of(average: np.ndarray) -> np.ndarray:
    """Return the quality whose true average AP exceeds that of quality 0 by `average`."""
    qualities, values = truth_by_quality()
    return np.interp(average + np.interp(0, qualities, values[:, -1]), values[:, -1], qualities)


def one_run(case: Case, size: int, number: int, generator: int, options: Mapping[str, int]) -> dict[str, Any]:
    """Simulate one test set and return the statements of the project's tests and of the former test."""
    rng = np.random.default_rng([generator, CASES.index(case), size, number])
    seeds = max(case.seeds, 3 if not case.noise else 1)
    noise = case.noise * rng.standard_normal((VARIANTS + 1, seeds))
    noise[-1] += GAIN  # the last variant is the better one; in `better` it replaces the one before it
    variants, scene, scenes = simulate(rng, quality_of(noise), size, case.correlation)
    matches = {f"v{n}": runs for n, runs in enumerate(variants)}
    parts = split_by_scene(matches, scene, scenes)
    boxes = scene_boxes(variants[0][0], scene, scenes)
    alike = list(matches)[:VARIANTS]
    better = [*alike[: VARIANTS - 1], f"v{VARIANTS}"]

    def judge(names: Sequence[str], seeds: int) -> dict[str, Any]:
        chosen = {name: parts[name][:seeds] for name in names}
        return compare(chosen, boxes, bands=names[:2], swaps=options["swaps"], seed=number)

    def any_of(result: Mapping[str, Any], key: str, but: str = "") -> bool:
        return any(c[key] for c in result["comparisons"] if but not in (c["first"], c["second"]))

    methods = judge(alike, seeds)
    trained = methods if case.seeds == seeds else judge(alike, case.seeds)
    with_gain = judge(better, case.seeds)
    part = "methods" if case.seeds > 1 else "trained"
    statement = f"{part}_differ"
    found = {
        "untested": bool(methods["untested"]),
        "methods": any_of(methods, "methods_differ"),
        "trained": any_of(trained, "trained_differ"),
        "beside_gain": any_of(with_gain, statement, but=better[-1]),
        "power": np.mean([c[statement] for c in with_gain["comparisons"] if c["second"] == better[-1]]),
        "averages": [float(np.nanmean(parts[name][: case.seeds].sum(axis=2), axis=1).mean()) for name in matches],
        "ahead": any(verdict[part]["verdict"] != "not shown" for verdict in trained["against_bands"].values()),
    }
    if case.noise:
        found["noisy"] = found["trained"]
        tied, scene_, scenes_ = simulate(
            rng, quality_of(np.repeat(noise[:1], VARIANTS, axis=0)), size, case.correlation
        )
        same = {f"v{n}": runs for n, runs in enumerate(tied)}
        tied_boxes = scene_boxes(tied[0][0], scene_, scenes_)
        result = compare(split_by_scene(same, scene_, scenes_), tied_boxes, swaps=options["swaps"], seed=number)
        found["trained"] = any_of(result, "trained_differ")
    if number < options["coverage_runs"]:
        # Only the intervals of one variant, because those of the others depend on them and add little information.
        first = {"v0": [variants[0][s] for s in range(case.seeds)]}
        classes = sequences()[2]
        described = describe(classes, boxes, *bootstrap(first, scene, options["draws"], number))["v0"]
        qualities, values = truth_by_quality()
        found["covered"] = {}
        for k, name in enumerate([*classes, "Average"]):
            truth = np.interp(quality_of(noise[0, : case.seeds]), qualities, values[:, k]).mean()
            entry = described[name]
            found["covered"][name] = (entry["boxes"], bool(entry["low"] <= truth <= entry["high"]))
    if number < options["old_runs"]:
        found["old"] = old_test([variants[n][: case.seeds] for n in range(VARIANTS)], number, options["old_draws"])
    return found


def old_test(variants: Sequence[Sequence[Sequence[Matches]]], seed: int, draws: int) -> bool:
    """Return whether the former test reports any difference: images and seeds drawn one by one, normal p, Holm."""
    rng = np.random.default_rng(seed)
    images, seeds = len(variants[0][0][0].boxes), len(variants[0])
    weights = np.concatenate([np.ones((1, images)), rng.multinomial(images, np.full(images, 1 / images), draws)])
    shares = np.concatenate(
        [np.full((1, seeds), 1 / seeds), rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds]
    )
    values = np.stack(
        [
            sum(
                share * np.nanmean([weighted_average_precision(one, weights) for one in classes], axis=0)
                for share, classes in zip(shares.T, runs, strict=True)
            )
            for runs in variants
        ]
    )
    first, second = np.triu_indices(len(variants), 1)
    differences = values[first] - values[second]
    p = 2 * stats.norm.sf(np.abs(differences[:, 0]) / differences[:, 1:].std(axis=1, ddof=1))
    return min(holm(p.tolist())) < LEVEL


def summarise(case: Case, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the shares over the runs of one case at one size."""

    def share(key: str, among: Sequence[Mapping[str, Any]] = runs) -> float:
        return float(np.mean([r[key] for r in among])) if among else float("nan")

    def clopper_pearson(key: str) -> tuple[float, float]:
        return tuple(map(float, stats.binomtest(sum(r[key] for r in runs), len(runs)).proportion_ci(0.95)))

    averages = np.array([r["averages"] for r in runs])
    alike = averages[:, :VARIANTS]
    # The standard error over test sets of a difference of two variants that do not differ.
    error = np.sqrt(2) * np.sqrt(((alike - alike.mean(axis=1, keepdims=True)) ** 2).sum() / (alike.size - len(alike)))
    better = np.column_stack([alike[:, : VARIANTS - 1], averages[:, -1]])
    first, second = np.triu_indices(VARIANTS, 1)
    p = 2 * stats.norm.sf(np.abs(better[:, first] - better[:, second]) / error)
    oracle = np.array([holm(row.tolist()) for row in p])[:, second == VARIANTS - 1] < LEVEL
    tested = [r for r in runs if not r["untested"]]
    entries = [entry for r in runs for entry in r.get("covered", {}).items()]
    enough = [(name, hit) for name, (number, hit) in entries if number >= ENOUGH_BOXES]
    few = [hit for _, (number, hit) in entries if 0 < number < ENOUGH_BOXES]
    by_class = {name: float(np.mean([hit for other, hit in enough if other == name])) for name, _ in enough}
    old = [r for r in runs if "old" in r]
    low, high = clopper_pearson("methods")
    conditional_low, conditional_high = clopper_pearson("trained")
    return {
        "name": case.name,
        "runs": len(runs),
        "familywise": share("methods"),
        "familywise_low": low,
        "familywise_high": high,
        "conditional_familywise": share("trained"),
        "conditional_familywise_low": conditional_low,
        "conditional_familywise_high": conditional_high,
        "power": share("power"),
        "oracle_power": float(oracle.mean()),
        "standard_error": float(error),
        "coverage": float(np.mean([hit for _, hit in enough])) if enough else None,
        "coverage_by_class": by_class,
        "coverage_few_boxes": float(np.mean(few)) if few else None,
        "coverage_runs": sum("covered" in r for r in runs),
        "old_familywise": share("old", old),
        "old_runs": len(old),
        "untested": share("untested"),
        "familywise_tested": share("methods", tested),
        "conditional_familywise_tested": share("trained", tested),
        # With one seed and training noise, these would be statements about detectors that really differ.
        "familywise_beside_gain": share("beside_gain") if case.seeds > 1 or not case.noise else None,
        "against_bands_familywise": share("ahead") if case.seeds > 1 or not case.noise else None,
        "taken_for_methods": share("noisy") if case.noise else None,
    }


def _chunk(arguments: tuple[Case, int, range, int, Mapping[str, int]]) -> list[dict[str, Any]]:
    logging.getLogger().setLevel(logging.WARNING)
    case, size, numbers, generator, options = arguments
    return [one_run(case, size, number, generator, options) for number in numbers]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="JSON file for the results")
    parser.add_argument(
        "--runs", type=int, default=1000, help="runs of each case and size, half with each generator seed"
    )
    parser.add_argument(
        "--generators", type=int, nargs=2, default=(1, 2), metavar="SEED", help="two seeds of the simulation"
    )
    parser.add_argument("--swaps", type=int, default=2000, help="random choices of signs in a test")
    parser.add_argument("--coverage-runs", type=int, default=400, help="runs that also compute intervals")
    parser.add_argument("--draws", type=int, default=300, help="draws of the bootstrap, for coverage")
    parser.add_argument("--old-runs", type=int, default=40, help="runs that also compute the former test")
    parser.add_argument("--old-draws", type=int, default=100, help="draws of the former test's bootstrap")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], help="cases; default all")
    options = parser.parse_args(argv)
    settings = {"swaps": options.swaps, "draws": options.draws, "old_draws": options.old_draws}
    settings |= {"old_runs": options.old_runs // 2, "coverage_runs": options.coverage_runs // 2}
    results = []
    started = time.monotonic()
    truth_by_quality()  # computed before the worker processes start, which inherit it
    with ProcessPoolExecutor(threads_available()) as pool:
        for case in CASES:
            if options.cases and case.name not in options.cases:
                continue
            sizes = []
            for size in case.images:
                begun = time.monotonic()
                half = options.runs // 2
                tasks = [
                    (case, size, range(start, min(start + 10, half)), generator, settings)
                    for start in range(0, half, 10)
                    for generator in options.generators
                ]
                progress, runs, by_generator = Progress(f"{case.name} {size}", 2 * half, "runs", 20), [], {}
                for task, found in zip(tasks, pool.map(_chunk, tasks), strict=True):
                    runs += found
                    by_generator.setdefault(task[3], []).extend(found)
                    progress.step(len(found))
                result = summarise(case, runs) | {"images": size, "seconds": time.monotonic() - begun}
                for key, word in (("familywise", "methods"), ("conditional_familywise", "trained")):
                    shares = [float(np.mean([r[word] for r in some])) for some in by_generator.values()]
                    result[f"{key}_by_generator"] = shares
                sizes.append(result)
            worst = max(sizes, key=lambda r: max(r["familywise"], r["conditional_familywise"]))
            results.append(worst | ({"sizes": sizes} if len(sizes) > 1 else {}))
            for result in sizes:
                print(_line(result), flush=True)
    write_json(
        options.json,
        {
            "cases": results,
            "settings": {**vars(options), "json": None, "gain": GAIN, "noise": NOISE, "variants": VARIANTS},
            "seconds": time.monotonic() - started,
            "case_definitions": [asdict(case) for case in CASES],
            "versions": versions("numpy", "scipy", "numba"),
        },
    )


def _line(result: Mapping[str, Any]) -> str:
    numbers = (
        "familywise",
        "conditional_familywise",
        "old_familywise",
        "power",
        "oracle_power",
        "coverage",
        "untested",
    )
    return f"{result['name']:18} {result['images']:5} {result['runs']:5} " + " ".join(
        f"{name} {result[name] if result[name] is not None else float('nan'):.3f}" for name in numbers
    )


if __name__ == "__main__":
    run(main)
