"""A small made-up run: the files that the tables and the page are made from."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection.errors import ALL_AT_ONCE, KINDS
from detection.inside import INSIDE
from detection.truths import label_dependence
from pipeline.artefacts import read_json, sha256_file, sha256_json, sha256_lines, write_csv, write_json, write_text
from pipeline.pairs import write_image
from reports.collect import BANDS, LATE, NO_IMAGES

CLASSES = ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
SIZE = (40, 64)


def significance_of(
    variants: Sequence[str],
    different: Iterable[tuple[str, str]] = (),
    bounds: tuple[float, float] = (-0.1, 0.1),
    classes: Sequence[str] = (),
    seeds: int = 1,
    untested: str = "",
) -> dict[str, Any]:
    """Return what detection.significance writes; the pairs of `different` differ, their later variant is the better.

    `bounds` are those of every difference, the later variant less the earlier. From three seeds on the statement about
    methods is that about trained detectors.
    """
    pairs = {frozenset(pair) for pair in different}
    methods = seeds >= 3
    low, high = (-bound for bound in reversed(bounds))
    interval = {"AP": 0.5, "low": 0.4, "high": 0.6, "boxes": 24, "scenes": 15, "undefined": 3, "remark": ""}
    by_class = {"difference": (low + high) / 2, "low": low, "high": high, "remark": ""}
    unknown = {"p_ahead": 0.4, "p_behind": 1.0, "verdict": "not shown", "reason": untested or "p 0.400 for ahead"}
    against = {}
    for variant in (v for v in variants if v not in BANDS):
        bands = [frozenset((variant, band)) in pairs for band in BANDS if band in variants]
        trained = {**unknown, "verdict": "ahead", "reason": ""} if all(bands) else unknown
        against[variant] = {"trained": trained, "methods": trained if methods else {**unknown, "reason": "seeds: 1"}}
    ways = [name for name in variants if name in NO_IMAGES]
    beaten = {}
    for variant in (v for v in variants if ways and v not in (*BANDS, *ways)):
        of_all = all(frozenset((variant, way)) in pairs for way in ways)
        beaten[variant] = {**unknown, "verdict": "ahead", "reason": ""} if of_all else unknown
    return {
        **{"method": "bootstrap of 15 whole sequences", "samples": 1000, "correction": "the largest of 6 differences"},
        **{"unit": "sequence", "conditions": {"night": condition_of(variants)}},
        **{"seeds": list(range(seeds)), "untested": untested, "training": {"total": 1e-4} if methods else None},
        "variants": dict.fromkeys(variants, dict.fromkeys((*classes, "Average"), interval)),
        "comparisons": [
            {
                **{"first": a, "second": b, "difference": (low + high) / 2, "low": low, "high": high},
                **{"methods_low": low if methods else None, "methods_high": high if methods else None},
                "confirmatory": (a in BANDS) != (b in BANDS),
                "trained_differ": frozenset((a, b)) in pairs,
                "methods_differ": methods and frozenset((a, b)) in pairs,
                "classes": dict.fromkeys(classes, by_class),
            }
            for a, b in combinations(variants, 2)
        ],
        "against_bands": against,
        "inside": ways,
        "against_inside": {
            name: {kind: ahead if kind == "trained" or methods else unknown for kind in ("trained", "methods")}
            for name, ahead in beaten.items()
        },
    }


def condition_of(variants: Sequence[str], remark: str = "") -> dict[str, Any]:
    """Return what detection.significance writes of one condition; every variant is 0.02 ahead of the one before it."""
    bounds = {"low": -0.1, "high": 0.2}
    return {
        **{"images": 4, "boxes": 17, "scenes": 3, "classes": {"Car": 17}, "remark": remark},
        "variants": {
            name: {"AP": 0.3 + 0.02 * n, "low": 0.2, "high": 0.6, "undefined": 0} for n, name in enumerate(variants)
        },
        "differences": [
            {"first": name, "second": band, "difference": 0.02 * (n - variants.index(band)), **bounds}
            for n, name in enumerate(variants)
            for band in BANDS
            if band in variants and band != name
        ],
    }


class ExampleRun:
    """Writes a run's files below a folder, and gives the two stages' arguments for them."""

    def __init__(self, folder: Path, variants: tuple[str, ...], seeds: tuple[int, ...], dataset: str) -> None:
        self.folder, self.variants, self.seeds, self.dataset = folder, variants, seeds, dataset
        self.methods = [variant for variant in variants if variant not in BANDS]
        self.train, self.test = [f"{n:05}" for n in range(1, 9)], [f"{n:05}" for n in range(9, 15)]
        self.split, self.tables = folder / "data/split", folder / "tables"
        self._write_split()
        for variant in variants:
            self._write_images(variant)
            for seed in seeds:
                self.write_ap(variant, seed)
        for method in self.methods:
            self._write_metrics(method)
        write_csv(
            folder / "losses.csv",
            pd.DataFrame({"stage": [1, 1, 2, 2], "iteration": [1, 2, 1, 2], "total": [4.0, 2.0, 3.0, np.nan]}),
            {"method": "fnet"},
        )
        write_json(folder / "config.json", {"seeds": list(seeds), "detection": {"model": "yolov5n"}})

    def ap(self, variant: str, seed: int = 0) -> Path:
        return self.folder / f"detection/{variant}/seed{seed}/ap.json"

    def training(self, variant: str, seed: int = 0) -> Path:
        return self.ap(variant, seed).with_name("provenance.json")

    def change(self, path: Path, *keys: str, value: object) -> None:
        """Set one value inside a JSON file."""
        content = inner = read_json(path)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        write_json(path, content)

    def add_late(self) -> None:
        """Add both bands' boxes pooled: scores and predictions, no images and no training."""
        write_json(self.ap(LATE), read_json(self.ap("visible")))
        self.change(self.ap(LATE), "variant", value=LATE)
        self.change(self.ap(LATE), "provenance", "trained_on", value=LATE)
        self.change(self.ap(LATE), "provenance", "training", value=[f"digest of {band} 0" for band in BANDS])
        predictions = read_json(self.ap("visible").with_name("predictions.json"))
        write_json(self.ap(LATE).with_name("predictions.json"), predictions)
        self.variants = (*self.variants, LATE)

    def add_inside(self) -> None:
        """Add the two rows of detectors that are given both bands: scores, predictions and trainings, no images."""
        for number, variant in enumerate(INSIDE, 1):
            for seed in self.seeds:
                scores, training = (read_json(file("visible", seed)) for file in (self.ap, self.training))
                infrared = read_json(self.ap("infrared", seed)), read_json(self.training("infrared", seed))
                scores["provenance"]["data"]["infrared_images"] = infrared[0]["provenance"]["data"]["images"]
                training["data"]["infrared_images"] = infrared[1]["data"]["images"]
                digest = f"digest of {variant} {seed}"
                scores["provenance"] |= {"trained_on": variant, "training": digest}
                scores["average"] = {**scores["average"], "AP": scores["average"]["AP"] + 0.05 * number}
                write_json(self.ap(variant, seed), scores | {"variant": variant})
                write_json(
                    self.training(variant, seed), training | {"variant": variant, "digest": digest, "inside": variant}
                )
                predictions = read_json(self.ap("visible", seed).with_name("predictions.json"))
                write_json(self.ap(variant, seed).with_name("predictions.json"), predictions)
        self.variants = (*self.variants, *INSIDE)

    def write_cost(self, model: str = "yolov5n") -> list[str]:
        """Write cost.json of detection.cost; return the argument that names it."""
        takes = {"visible": (2e6, 4e8), "stacked": (2e6, 5e8), "twostream": (3e6, 6e8)}
        content = {
            "hours": dict.fromkeys([name for name in self.variants if name != LATE], 1.0),
            "recipe": {"model": model, "image_size": 192},
            "networks": {
                name: {"parameters": parameters, "multiply_adds": adds, "image": [160, 192]}
                for name, (parameters, adds) in takes.items()
            },
        }
        write_json(self.folder / "cost.json", content)
        return ["--cost", str(self.folder / "cost.json")]

    def write_significance(self, different: Iterable[tuple[str, str]] = (), untested: str = "") -> list[str]:
        """Write significance.json, in which the pairs of `different` differ; return the argument that names it."""
        predictions = {}
        for variant in self.variants:
            self.change(self.ap(variant), "provenance", "predictions", value=f"p {variant}")
            predictions[variant] = {str(self.seeds[0]): f"p {variant}"}
        content = significance_of(self.variants, different, classes=CLASSES, untested=untested) | {
            "provenance": {
                "labels": sha256_json(read_json(self.split / "truth_test.json")),
                "predictions": predictions,
            },
        }
        write_json(self.folder / "significance.json", content)
        return ["--significance", str(self.folder / "significance.json")]

    def write_truths(self, names: Sequence[str] = ("fused", "visible", "union"), flip: bool = True) -> list[str]:
        """Write truths.json of these label sets, the first chosen; return the argument that names it.

        By the others the order of the variants is turned round, and `fnet` is behind, if `flip`. One set is not scored.
        """
        chosen = names[0]
        self.change(self.split / "dataset.json", "truth", value=chosen)
        averages = {
            variant: [read_json(self.ap(variant, seed))["average"]["AP"] for seed in self.seeds]
            for variant in self.variants
        }
        predictions = {}
        for variant in self.variants:
            predictions[variant] = {str(seed): f"p {variant}" for seed in self.seeds}
            for seed in self.seeds:
                self.change(self.ap(variant, seed), "provenance", "predictions", value=f"p {variant}")
        found = significance_of(self.variants, seeds=len(self.seeds))
        sets = {}
        for name in names:
            turned = flip and name != chosen
            means = {v: float(np.mean(values)) * (-1 if turned else 1) + turned for v, values in averages.items()}
            against = {v: {k: dict(entry) for k, entry in both.items()} for v, both in found["against_bands"].items()}
            if turned:
                against["fnet"]["trained"]["verdict"] = against["fnet"]["methods"]["verdict"] = "behind"
            sets[name] = {
                "boxes": dict.fromkeys(CLASSES, 4) | ({"Bus": 0} if name == "visible" else {}),
                "AP": {variant: {"Average": value} for variant, value in means.items()},
                "seeds": {
                    variant: {str(seed): {"Average": value} for seed, value in zip(self.seeds, values, strict=True)}
                    for variant, values in averages.items()
                },
                "order": sorted(means, key=lambda variant: -means[variant]),
                **{"untested": "", "training": found["training"], "against_bands": against},
            }
        statement = "methods" if found["training"] else "trained"
        content = {"truth": chosen, "several": len(names) > 1, "sets": sets if len(names) > 1 else {}} | {
            **{"protocol": "COCO mAP", "unit": "sequence", "statement": statement},
            "agreement": [
                {"first": a, "second": b, "kendall_tau": -1.0 if flip else None, "first_alone": {"Car": 3, "Bus": 1}}
                | {"second_alone": None}
                for a, b in combinations(names, 2)
            ],
            **label_dependence(sets, statement),
            "provenance": {
                "labels": {name: sha256_json(read_json(self.split / "truth_test.json")) for name in names},
                "predictions": predictions,
            },
        }
        write_json(self.folder / "truths.json", content)
        return ["--truths", str(self.folder / "truths.json")]

    def write_errors(self, people: str | None = "People") -> list[str]:
        """Write errors.json and a confusion in every ap.json; return the argument that names errors.json.

        The kinds gain 0.01, 0.02, ...; each variant gains 0.01 less by `missed` than the one before it.
        """
        predictions, variants = {}, {}
        for index, variant in enumerate(self.variants):
            gains = {kind: 0.01 * n for n, kind in enumerate((*KINDS, *ALL_AT_ONCE), 1)}
            gains["missed"] = 0.1 - 0.01 * index
            predictions[variant], seeds = {}, {}
            for seed in self.seeds:
                file = self.ap(variant, seed)
                self.change(file, "provenance", "predictions", value=f"p {variant}")
                predictions[variant][str(seed)] = f"p {variant}"
                confusion = {"classes": [*CLASSES, "background"], "counts": (3 * np.eye(7, dtype=int) + seed).tolist()}
                write_json(file, read_json(file) | {"confusion": confusion})
                seeds[str(seed)] = {
                    **{"AP50": read_json(file)["average"]["AP50"], "gains": gains},
                    **{"counts": dict.fromkeys(KINDS, 12), "miss_rate": 0.5 - 0.01 * index if people else None},
                }
            variants[variant] = {**seeds[str(self.seeds[0])], "seeds": seeds}
        content = {
            **{"foreground": 0.5, "background": 0.1, "people": people, "variants": variants},
            "provenance": {
                "labels": sha256_json(read_json(self.split / "truth_test.json")),
                **{"predictions": predictions, "versions": {"pycocotools": "2.0.8"}},
                "most_detections": read_json(self.ap(self.variants[0], self.seeds[0]))["provenance"].get(
                    "most_detections"
                ),
            },
        }
        write_json(self.folder / "errors.json", content)
        return ["--errors", str(self.folder / "errors.json")]

    def tables_arguments(self) -> list[str]:
        runs = [self.ap(variant, seed) for variant in self.variants for seed in self.seeds]
        trained = [run.with_name("provenance.json") for run in runs if run.parts[-3] != LATE]
        return [
            *("--split", str(self.split), "--output", str(self.tables), "--ap", *map(str, runs)),
            *("--metrics", *(str(self.folder / f"metrics/{method}.csv") for method in self.methods)),
            *("--fused-manifests", *(str(self.folder / f"fused/{method}/manifest.csv") for method in self.methods)),
            *("--training", *map(str, trained)),
            *("--config-snapshot", str(self.folder / "config.json"), "--variants", *self.variants),
        ]

    def page_arguments(self) -> list[str]:
        runs = [self.ap(variant, seed) for variant in self.variants for seed in self.seeds]
        return [
            *("--tables", str(self.tables), "--split", str(self.split), "--ap", *map(str, runs)),
            *("--images", *(f"{name}={self.folder}/fused/{name}" for name in self.variants if name not in NO_IMAGES)),
            "--predictions",
            *(f"{name}={self.ap(name, self.seeds[0]).with_name('predictions.json')}" for name in self.variants),
            *("--losses", f"{self.methods[-1]}={self.folder}/losses.csv"),
            *("--config-snapshot", str(self.folder / "config.json"), "--output", str(self.folder / "report.html")),
        ]

    def write_ap(self, variant: str, seed: int, **changed: float | None) -> None:
        """Write ap.json and predictions.json; `changed` sets a class's AP, None for undefined."""
        step = self.variants.index(variant) * 0.01 + seed * 0.002
        values = {name: round(0.4 + 0.05 * index + step, 6) for index, name in enumerate(CLASSES)} | changed
        defined = [value for value in values.values() if value is not None]
        boxes = read_json(self.split / "dataset.json")["boxes"]["test"]
        scores = {
            "variant": variant,
            "seed": seed,
            "detector": "YOLOv5u (yolov5n)",
            "protocol": "COCO mAP@[0.5:0.95], pycocotools 2.0.8",
            "classes": {
                name: {"AP": value, "AP50": value, "AP75": value, "boxes": boxes[name]}
                for name, value in values.items()
            },
            "average": dict.fromkeys(("AP", "AP50", "AP75"), sum(defined) / len(defined)),
            "images": len(self.test),
            "boxes": sum(boxes.values()),
            "provenance": {
                "weights": f"weights of {variant} {seed}",
                "training": f"digest of {variant} {seed}",
                "trained_on": variant,
                "start": "random",
                "data": self._data_digests(variant, "test", self.test),
                "image_size": 192,
                "versions": {"ultralytics": "8.4.190"},
            },
        }
        training = {
            "digest": f"digest of {variant} {seed}",
            "variant": variant,
            "seed": seed,
            "start": "random",
            "recipe": {
                **{"model": "yolov5n", "image_size": 192, "epochs": 40, "batch": 8, "optimizer": "AdamW"},
                **{"lr0": 0.002, "seed": seed},
            },
            "data": self._data_digests(variant, "train", self.train),
            "device": "cpu",
        }
        write_json(self.training(variant, seed), training)
        write_json(self.ap(variant, seed), scores)
        detections = [{"image_id": 9, "category_id": 2, "bbox": [4, 2, 30, 20], "score": score} for score in (0.9, 0.1)]
        write_json(self.ap(variant, seed).with_name("predictions.json"), detections)

    def _data_digests(self, variant: str, part: str, names: list[str]) -> dict[str, str]:
        files = ((name, self.folder / f"fused/{variant}/{name}.png") for name in names)
        return {
            "labels": sha256_json(read_json(self.split / f"truth_{part}.json")),
            "images": sha256_lines(f"{name} {sha256_file(file)}" for name, file in files),
        }

    def _write_split(self) -> None:
        for part, names in (("train", self.train), ("test", self.test)):
            write_text(self.split / f"{part}.txt", "".join(f"{name}\n" for name in names))
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
        for part, names in (("train", self.train), ("test", self.test)):
            images = [{"id": int(name), "file_name": name, "width": SIZE[1], "height": SIZE[0]} for name in names]
            annotations = [
                {
                    **{"id": n, "image_id": images[n % len(images)]["id"], "category_id": 1 + n % 6},
                    **{"bbox": [n, 3, 9, 12], "area": 108, "iscrowd": 0},
                }
                for n in range(1, 25)
            ]
            truth = {"images": images, "annotations": annotations, "categories": categories}
            write_json(self.split / f"truth_{part}.json", truth)
        dataset = {
            "dataset": self.dataset,
            "classes": CLASSES,
            "split": {
                "kind": "own",
                "seed": None,
                "train": len(self.train),
                "test": len(self.test),
                "digest_train": sha256_lines(self.train),
                "digest_test": sha256_lines(self.test),
            },
            "boxes": {"train": dict.fromkeys(CLASSES, 9), "test": dict.fromkeys(CLASSES, 4)},
            "warnings": ["Annotation/00003.xml: a box was clipped"],
        }
        write_json(self.split / "dataset.json", dataset)

    def _write_images(self, variant: str) -> None:
        folder = self.folder / f"fused/{variant}"
        ramp = np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)
        names = [*self.train, *self.test]
        for name in names:
            write_image(folder / f"{name}.png", ramp)
        digests = [sha256_file(folder / f"{name}.png") for name in names]
        frame = pd.DataFrame({"name": names, "file": [f"{name}.png" for name in names], "sha256": digests})
        write_csv(folder / "manifest.csv", frame, {"method": variant, "weights": "none", "colour": "auto"})

    def _write_metrics(self, method: str) -> None:
        rng = np.random.default_rng(self.methods.index(method))
        frame = pd.DataFrame({"name": self.test} | {name: rng.random(6) for name in ("MI", "VIF", "Qabf", "SSIM")})
        write_csv(self.folder / f"metrics/{method}.csv", frame, {"convention": "reference"})
