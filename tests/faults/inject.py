"""Break every stage in every way that we could think of, and print what was expected and what was seen.

    python tests/faults/inject.py                         everything, half an hour
    python tests/faults/inject.py --only kill --kills 5   one kind of fault

Needs root for the faults of full and read-only disks, which mount small file systems; elsewhere they are said to be
skipped. Exits with status 1 where a fault did not hold.
"""

# ruff: noqa: E501 - a case is a line

import argparse
import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import stages
import torch
import yaml
from stages import ROOT, Bench, differences, parts_left, results, run

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Row:
    """One fault, what it met, what was expected and seen; `held` is None where it was skipped."""

    fault: str
    stage: str
    expected: str
    seen: str
    held: bool | None


def kill(bench: Bench, work: Path, only: tuple[str, ...] = tuple(stages.MODULES), kills: int = 20) -> Iterator[Row]:
    """Kill a stage by signal 9 at random moments; the next run must complete and end where the undisturbed run did."""
    for stage in only:
        wanted = bench.results(stage)
        usual = bench.run(stage, work / f"usual-{stage}").seconds
        random, met, failed = np.random.default_rng([8, kills]), 0, []
        for number in range(kills):
            folder = work / f"kill-{stage}-{number}"
            met += bench.start(stage, folder).wait(random.uniform(0, usual)).status == -9
            again = bench.run(stage, folder)
            wrong = again.error or again.text if again.status else differences(results(folder), wanted)
            failed += [f"kill {number}: {wrong}"] if wrong else []
            shutil.rmtree(folder)
        seen = f"{met} of {kills} met it running; {kills - len(failed)} ended alike" + "".join(failed[:1])
        yield Row("kill -9", stage, "next run ends with the same bytes", seen, not failed and met > 0)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory at `folder`; OSError where this process may not."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def full_disk(bench: Bench, work: Path, only: tuple[str, ...] = tuple(stages.MODULES)) -> Iterator[Row]:
    """Give a stage a disk that is too small: one error that names a file, no half result, and then room to end."""
    for stage in only:
        wanted = bench.results(stage)
        for size in ("4k", "third", "most"):
            folder = work / f"full-{stage}-{size}"
            usual = work / f"usual-{stage}"
            if not usual.is_dir():
                bench.run(stage, usual)
            whole = sum(path.stat().st_size for path in usual.rglob("*") if path.is_file())
            pages = {"4k": 1, "third": whole // 3 // 4096, "most": whole * 9 // 10 // 4096}[size]
            try:
                with mounted(folder, f"size={max(pages, 1) * 4}k"):
                    first = bench.run(stage, folder)
                    kept = results(folder)
                    half = differences(kept, {name: wanted.get(name, "") for name in kept})
                    left = parts_left(folder)
                    subprocess.run(["mount", "-o", "remount,size=500m", folder], check=True)
                    again = bench.run(stage, folder)
                    end = "ends alike" if results(folder) == wanted else differences(results(folder), wanted)
            except OSError as error:
                yield Row("full disk", stage, "", f"skipped: {error}", None)
                return
            named = "No space left" in first.error and str(folder) in first.error
            seen = f"{first.summary()[:160]}; {len(kept)} files kept{f', half: {half}' if half else ''}{left or ''}"
            seen += f"; then {again.summary()}, {end}"
            held = named and not half and not left and again.status == 0 and end == "ends alike"
            yield Row(f"full disk ({size})", stage, "one error that names a file; next run ends alike", seen, held)


def read_only(bench: Bench, work: Path, only: tuple[str, ...] = tuple(stages.MODULES)) -> Iterator[Row]:
    """Give a stage an output folder on a read-only file system."""
    for stage in only:
        folder = work / f"read-only-{stage}"
        try:
            with mounted(folder, "ro"):
                first = bench.run(stage, folder)
        except OSError as error:
            yield Row("read-only output", stage, "", f"skipped: {error}", None)
            return
        held = "Read-only file system" in first.error and str(folder) in first.error
        yield Row("read-only output", stage, "one error that names a file", first.summary(), held)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _shorter(data: bytes) -> bytes:
    return data[:-3]


def _line_lost(data: bytes) -> bytes:
    return data[: data.rstrip(b"\n").rindex(b"\n") + 1]


def _flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


# What a stage reads, and how it is spoilt; the stage must refuse it by name.
SPOILT = [
    ("train", "pairs/Vis/00003.png", (_half, _shorter)),
    ("fuse", "pairs/Ir/00003.png", (_half, _shorter)),
    ("evaluate", "fused/average/00003.png", (_half, _shorter, _flipped)),
    ("evaluate", "fused/average/manifest.csv", (_half, _shorter, _line_lost)),
    ("train_detector", "fused/average/00003.png", (_half, _shorter, _flipped)),
    ("train_detector", "fused/average/manifest.csv", (_half, _shorter)),
    ("train_detector", "split/truth_train.json", (_half, _shorter)),
    ("train_detector", "average/data.yaml", (_half,)),
    ("test_detector", "fused/average/00030.png", (_half, _shorter, _flipped)),
    ("test_detector", "split/truth_test.json", (_half, _shorter)),
    ("test_detector", "split/conditions.json", (_half, _shorter)),
    ("test_detector", "average/seed0/weights.pt", (_half, _shorter, _flipped)),
    ("tables", "average/seed0/ap.json", (_half, _shorter)),
    ("tables", "average/seed0/provenance.json", (_half, _shorter)),
    ("tables", "metrics/average.csv", (_half, _shorter, _line_lost)),
    ("tables", "fused/average/manifest.csv", (_half, _shorter, _line_lost)),
    ("tables", "split/train.txt", (_half, _line_lost)),
    ("tables", "split/test.txt", (_half, _line_lost)),
    ("tables", "split/dataset.json", (_half, _shorter)),
    ("tables", "split/truth_test.json", (_half, _shorter)),
]


def truncated(bench: Bench, work: Path, spoilt: list = SPOILT) -> Iterator[Row]:
    """Cut a file off, or change a byte of it, between the stage that wrote it and the one that reads it."""
    copy = bench.copied(work / "spoilt")
    for stage, name, ways in spoilt:
        file = copy.base / name
        whole = file.read_bytes()
        for way in ways:
            file.write_bytes(way(whole))
            seen = copy.run(stage, work / f"spoilt-{stage}")
            file.write_bytes(whole)
            shutil.rmtree(work / f"spoilt-{stage}", ignore_errors=True)
            held = Path(name).name in seen.error
            fault = f"{name}: {way.__name__[1:].replace('_', ' ')}"
            yield Row(fault, stage, "one error that names the file", seen.summary(), held)


class Payload:
    """Unpickled by a careless reader, it writes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        """Remember the file."""
        self.marker = marker

    def __reduce__(self) -> tuple:
        """Say what unpickling is to run."""
        return os.system, (f"touch '{self.marker}'",)


def checkpoint(bench: Bench, work: Path, only: tuple[str, ...] = ("train", "train_detector")) -> Iterator[Row]:
    """Spoil the newest checkpoint, or all, of a killed training."""
    marker = work / "owned"
    for stage in only:
        wanted = bench.results(stage)
        ways: dict[str, Callable[[bytes], bytes]] = {
            "cut in half": _half,
            "empty": lambda data: b"",
            "one byte of a tensor changed": lambda data: (
                data[: len(data) * 3 // 4] + b"\x55" + data[len(data) * 3 // 4 + 1 :]
            ),
            "a pickle that runs a command": lambda data: pickle.dumps(Payload(marker)),
            "another file": lambda data: b"PK" + bytes(500),
        }
        for which in ("newest", "all"):
            for way, spoil in ways.items():
                folder = work / f"checkpoint-{stage}"
                shutil.rmtree(folder, ignore_errors=True)
                process = bench.start(stage, folder)
                deadline = time.monotonic() + 60
                while len(found := sorted(folder.rglob("checkpoints/*/[!.]*.pt"))) < 2 and time.monotonic() < deadline:
                    time.sleep(0.005)
                process.wait(0)
                found = sorted(folder.rglob("checkpoints/*/[!.]*.pt"))
                for path in found[-1:] if which == "newest" else found:
                    path.write_bytes(spoil(path.read_bytes()))
                again = bench.run(stage, folder)
                alike = differences(results(folder), wanted) or "ends alike"
                held = not marker.exists() and again.status == 0 and alike == "ends alike" and len(found) > 0
                held = held or (any(path.name in again.error for path in found) and not marker.exists())
                said = [line for line in again.text.splitlines() if "warning" in line][:1]
                seen = f"{again.summary()}, {alike}; {len(found)} checkpoints; {''.join(said)[-110:]}"
                yield Row(f"checkpoint ({which}): {way}", stage, "the one before, or a stop that names it", seen, held)


def clock(bench: Bench, work: Path) -> Iterator[Row]:
    """Let checkpoints and outputs of a killed run be dated as by a clock that went backwards."""
    for stage in stages.MODULES:
        folder = work / f"clock-{stage}"
        process = bench.start(stage, folder)
        process.wait(bench.seconds[stage] / 2 if stage != "train" else 2)
        for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
            os.utime(path, (2e9 - 86400 * number,) * 2)  # in 2033, and the later the file the older
        again = bench.run(stage, folder)
        alike = differences(results(folder), bench.results(stage)) or "ends alike"
        yield Row(
            "clock goes backwards", stage, "next run ends alike", f"{again.summary()}, {alike}", alike == "ends alike"
        )


def twice(bench: Bench, work: Path, only: tuple[str, ...] = tuple(stages.MODULES)) -> Iterator[Row]:
    """Run a stage twice at once in one folder: each completes or refuses, and the results are whole."""
    for stage in only:
        folder = work / f"twice-{stage}"
        both = [bench.start(stage, folder) for _ in range(2)]
        ends = [process.wait() for process in both]
        alike = differences(results(folder), bench.results(stage)) or "ends alike"
        fine = all(end.status == 0 or end.error for end in ends) and any(end.status == 0 for end in ends)
        seen = f"{' | '.join(end.summary()[:120] for end in ends)}; {alike}"
        yield Row("two at once", stage, "one or both complete; same bytes", seen, fine and alike == "ends alike")


def memory(bench: Bench, work: Path, only: tuple[str, ...] = tuple(stages.MODULES)) -> Iterator[Row]:
    """Take memory away from a stage, and kill a process that reads images for it."""
    for stage in only:
        folder = work / f"memory-{stage}"
        seens, held = [], True
        for limit in (0, 2**20, 2**23, 2**25):
            first = bench.start(stage, folder, memory=limit).wait(120)
            seens.append(f"{limit >> 20} MB: {first.summary()[:90]}")
            held &= first.status == 0 or "memory" in first.error
        again = bench.run(stage, folder)
        alike = differences(results(folder), bench.results(stage)) or "ends alike"
        yield Row(
            "out of memory", stage, "one error, then ends alike", f"{'; '.join(seens)}; then {alike}",
            held and again.status == 0 and alike == "ends alike",
        )  # fmt: skip
    if "train_detector" in only:
        folder = work / "memory-reader"
        options = [*bench.options("train_detector", folder), "--workers", "1"]
        process = stages.Process("detection.train", options, work / "memory-reader.log")
        deadline = time.monotonic() + 60
        while not list(folder.rglob("batch-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in psutil.Process(process.process.pid).children():
            child.kill()
        first = process.wait(60)
        again = bench.run("train_detector", folder)
        alike = differences(results(folder), bench.results("train_detector")) or "ends alike"
        held = bool(first.error) and alike == "ends alike"
        seen = f"{first.summary()}; then {again.summary()}, {alike}"
        yield Row("reading process killed", "train_detector", "one error, then ends alike", seen, held)


def flat_png(path: Path, width: int, height: int, channels: int = 1) -> None:
    """Write a black PNG of any size without ever holding it: some thousandth of its pixels' bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    row = bytes(1 + width * channels)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    colour = {1: 0, 3: 2}[channels]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def bombs(bench: Bench, work: Path, side: int = 20000) -> Iterator[Row]:
    """Hand in images far too large for the memory, in small files."""
    copy = bench.copied(work / "bombs")
    cases = {f"{side} x {side}, grey": (side, side, 1), "32,000 x 32,000 in colour, 3 GB": (32000, 32000, 3)}
    for case, shape in cases.items() if side == 20000 else list(cases.items())[:1]:
        for folder in ("pairs/Vis", "fused/average"):
            flat_png(copy.base / folder / "00003.png", *shape)
        size = (copy.base / "pairs/Vis/00003.png").stat().st_size
        for stage in ("fuse", "evaluate", "train"):
            seen = copy.run(stage, work / f"bomb-{stage}", memory=2**29)
            shutil.rmtree(work / f"bomb-{stage}", ignore_errors=True)
            held = "00003.png" in seen.error and ("pixels" in seen.error or "changed after fusion" in seen.error)
            yield Row(
                f"image of {case} ({size / 1e6:.1f} MB)",
                stage,
                "one error that names it, in 0.5 GB",
                seen.summary(),
                held,
            )


def hostile_xml(bench: Bench, work: Path, deep: int = 10**6) -> Iterator[Row]:
    """Hand in labels whose XML defines entities."""
    secret = work / "secret.txt"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("Car")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 5}">' for n in range(10))
    cases = {
        "billion laughs": f"<!DOCTYPE a [{laughs}]><annotation><object><name>&l9;</name></object></annotation>",
        "external entity": f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
        "<annotation><object><name>&x;</name></object></annotation>",
        "external DTD": '<!DOCTYPE a SYSTEM "http://192.0.2.1/x.dtd"><annotation/>',
        "parameter entity": f'<!DOCTYPE a [<!ENTITY % x SYSTEM "{secret.as_uri()}"> %x;]><annotation/>',
        f"{deep} elements deep": "<annotation>" + "<a>" * deep + "</a>" * deep + "</annotation>",
    }
    copy = bench.copied(work / "xml")
    file = copy.pairs / "Annotation/00003.xml"
    for case, text in cases.items():
        file.write_text(text)
        options = ["--dataset", "synthetic", "--root", str(copy.pairs), "--output", str(work / "xml-split")]
        for module in ("detection.prepare", "detection.audit"):
            if module == "detection.audit":
                options[-1] = str(work / "audit.json")
            seen = run(module, options, work / "xml.log", memory=2**29)
            held = "00003.xml" in seen.error or (seen.status == 0 and "deep" in case)
            held |= module == "detection.audit" and "00003.xml" in seen.text and "Traceback" not in seen.text
            yield Row(f"XML: {case}", module, "one error that names the file", seen.summary()[:200], held)


def hostile_yaml(bench: Bench, work: Path) -> Iterator[Row]:
    """Hand in a data.yaml, and a configuration, with tags that construct objects, and with aliases that multiply."""
    marker = work / "owned-by-yaml"
    tags = f"!!python/object/apply:os.system [\"touch '{marker}'\"]"
    laughs = "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    copy = bench.copied(work / "yaml")
    file = copy.base / "average/data.yaml"
    whole = file.read_text()
    for case, text in {
        "a tag that runs a command": whole.replace("variant: average", f"variant: {tags}"),
        "names by aliases that multiply": laughs + "names: *a9\n" + whole.split("names:")[0],
        "variant by aliases that multiply": laughs + "variant: *a9\n" + whole.partition("\n")[2],
    }.items():
        file.write_text(text)
        seen = copy.run("train_detector", work / "yaml-out", memory=2**30)
        held = "data.yaml" in seen.error and not marker.exists()
        yield Row(
            f"YAML: {case}", "train_detector", "one error that names the file; nothing run", seen.summary()[:200], held
        )
    for case, text in {
        "a tag that runs a command": f"dataset: {{name: synthetic, root: {tags}}}\n",
        "aliases that multiply": laughs + "dataset: {name: synthetic, root: *a9}\n",
    }.items():
        status, said = snakemake(work / "yaml-run", "-n", overlay=text)
        short = next((line for line in said.splitlines() if "rror" in line), said[-200:])
        held = status > 0 and not marker.exists() and "Traceback" not in said
        yield Row(f"config: {case}", "snakemake", "an error; nothing run", f"status {status}: {short[:160]}", held)


def hostile_weights(bench: Bench, work: Path) -> Iterator[Row]:
    """Hand in weights that are pickles which run a command, everywhere that weights are read."""
    from fusion.methods import METHODS

    marker = work / "owned-by-weights"
    folder = work / "weights"
    folder.mkdir(parents=True)
    payload = Payload(marker)
    files = {name: folder / f"{name}" for name in ("bare.pth", "bare.safetensors", "bare.pkl", "zip.pth", "zip.pt")}
    for path in files.values():
        if path.name.startswith("bare"):
            path.write_bytes(pickle.dumps(payload, protocol=2))
        else:
            torch.save({"state_dict": payload, "weights": payload, "format": 1}, path)
    torch.save({"model": payload}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    np.save(folder / "array.npy", np.array([payload]), allow_pickle=True)
    np.savez(folder / "array.npz", weights=np.array([payload]))
    for name in ("tf/model.index", "tf/model.data-00000-of-00001"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(payload))
    with zipfile.ZipFile(folder / "script.pth", "w") as archive:  # as TorchScript lays it out
        archive.writestr("a/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("a/constants.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("a/version", "3\n")
    candidates = [*sorted(folder.iterdir()), folder / "tf/model.index"]
    bands = [word for band, place in bench.bands.items() for word in (f"--{band}", str(place))]
    one = [word for band, place in bench.bands.items() for word in (f"--{band}", str(place / "00000.png"))]
    out, cpu = ["--output", str(work / "weights-out")], ["--device", "cpu"]
    seed = bench.options("train_detector", work / "weights-out")
    test = bench.options("test_detector", work / "weights-out")
    readers: dict[str, Callable[[Path], tuple[str, list[str]]]] = {
        f"fuse {name}": lambda path, name=name: (
            "fusion.fuse", ["--method", name, *bands, *out, *cpu, "--weights", str(path)]
        )
        for name, method in METHODS.items()
        if method.needs_weights
    } | {
        "convert fnet": lambda path: (
            "fusion.weights.__main__",
            ["--convert", "fnet", str(path), "--output", str(work / "converted.safetensors")],
        ),
        "cost fnet": lambda path: ("fusion.cost", ["--method", "fnet", "--weights", str(path), *cpu, "--size", "32", "32"]),
        "explain": lambda path: ("fusion.explain", ["--weights", str(path), *one, *out, *cpu]),
        "train --start": lambda path: (
            "fusion.train", [*bench.options("train", work / "weights-out"), "--start", str(path)]
        ),
        "train_detector --weights": lambda path: ("detection.train", [*seed, "--weights", str(path)]),
        "test_detector --weights": lambda path: ("detection.test", [*test, "--weights", str(path)]),
    }  # fmt: skip
    for reader, options in readers.items():
        wrong = []
        for path in candidates:
            seen = run(*options(path), work / "weights.log")
            if marker.exists() or not seen.error:
                wrong.append(f"{path.name}: {'RAN; ' if marker.exists() else ''}{seen.summary()[:160]}")
            marker.unlink(missing_ok=True)
        seen = "; ".join(wrong[:3]) or f"{len(candidates)} files, each one error"
        yield Row("weights that are pickles", reader, "one error; nothing run", seen, not wrong)


HOSTILE = [
    "a;touch owned", "$(touch owned)", "`touch owned`", "-rf", "--output", "..hidden", "a|b&c", "%s{x}", "<b>&amp;",
    "a'b\"c", "*", "a b", "#x", "=1+1", "ü", "\\x", "{results}", "a,b", "nan", "00\t1", "\u202egnp", "$HOME",
]  # fmt: skip


def hostile_names(bench: Bench, work: Path) -> Iterator[Row]:
    """Name images as no one should, and lists and configurations after what is outside."""
    root = work / "names"
    data = root / "data"
    for kind in ("visible", "infrared", "labels"):
        (data / kind).mkdir(parents=True)
    sources = sorted((bench.pairs / "Vis").iterdir())
    for name, source in zip(HOSTILE, sources, strict=False):
        shutil.copy(source, data / "visible" / f"{name}.png")
        shutil.copy(bench.pairs / "Ir" / source.name, data / "infrared" / f"{name}.png")
        shutil.copy(bench.pairs / "Annotation" / f"{source.stem}.xml", data / "labels" / f"{name}.xml")
    classes = ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
    bands = ["--visible", str(data / "visible"), "--infrared", str(data / "infrared")]
    before = {path for path in work.rglob("*") if root not in path.parents}
    chain = [
        ("detection.prepare", ["--dataset", "folders", "--root", str(data), "--classes", *classes, "--split", "random"]
         + ["--train", "12", "--test", "8", "--output", str(root / "split")]),
        ("fusion.fuse", ["--method", "average", *bands, "--output", str(root / "fused/average")]),
        ("fusion.evaluate", [*bands, "--fused", str(root / "fused/average"), "--output", str(root / "m/average.csv")]),
        ("detection.variant", ["--variant", "average", "--prepared", str(root / "split"), "--images"]
         + [str(root / "fused/average"), "--manifest", str(root / "fused/average/manifest.csv"), "--output"]
         + [str(root / "data.yaml")]),
        ("detection.train", ["--data", str(root / "data.yaml"), "--model", "yolov5n", "--image-size", "64", "--epochs"]
         + ["1", "--device", "cpu", "--output", str(root / "seed0")]),
        ("detection.test", ["--data", str(root / "data.yaml"), "--weights", str(root / "seed0/weights.pt"), "--device"]
         + ["cpu", "--conditions", str(root / "split/conditions.json"), "--output", str(root / "seed0")]),
        ("reports.tables", ["--split", str(root / "split"), "--variants", "average", "--ap", str(root / "seed0/ap.json")]
         + ["--training", str(root / "seed0/provenance.json"), "--metrics", str(root / "m/average.csv")]
         + ["--fused-manifests", str(root / "fused/average/manifest.csv"), "--output", str(root / "tables")]),
    ]  # fmt: skip
    for module, options in chain:
        seen = run(module, options, root / "log")
        owned = [*work.rglob("owned*"), *Path.cwd().glob("owned*")]
        outside = {path for path in work.rglob("*") if root not in path.parents} - before
        held = seen.status == 0 and not owned and not outside
        what = seen.summary() + (f", wrote {sorted(map(str, {*outside, *owned}))[:3]}" if owned or outside else "")
        yield Row(f"{len(HOSTILE)} hostile image names", module, "completes; nothing run, nothing outside", what, held)
    manifest = root / "fused/average"
    count = len([path for path in manifest.iterdir() if path.suffix == ".png"])
    wanted = sum(not name.startswith(".") for name in HOSTILE)  # hidden files are no images
    yield Row("hostile image names", "fuse", "an image of each name", f"{count} of {wanted}", count == wanted)
    for name in ("../../outside", "/etc/passwd", "..", "-rf", "$(touch owned)", "a\0b"):
        (root / "list.txt").write_text(f"{name}x\n")
        for module, options in (
            ("fusion.fuse", ["--method", "average", *bands, "--names", str(root / "list.txt"), "--output", str(root / "f")]),
            ("detection.prepare", ["--dataset", "folders", "--root", str(data), "--classes", *classes, "--split", "list"]
             + ["--train-list", str(root / "list.txt"), "--test-list", str(root / "list2.txt"), "--output", str(root / "s")]),
        ):  # fmt: skip
            (root / "list2.txt").write_text("a b\n")
            seen = run(module, options, root / "log")
            outside = {path for path in work.rglob("*") if root not in path.parents} - before
            held = bool(seen.error) and not outside and not list(Path.cwd().glob("owned*"))
            yield Row(f"list names {name!r}", module, "one error", seen.summary()[:150], held)
    broken = data / "visible" / "a\nb.png"
    shutil.copy(sources[-1], broken)
    shutil.copy(bench.pairs / "Ir" / sources[-1].name, data / "infrared" / "a\nb.png")
    shutil.copy(bench.pairs / "Annotation/00003.xml", data / "labels" / "a\nb.xml")
    options = [*chain[0][1]]
    options[options.index("12")] = "14"
    for module, words in (("detection.prepare", options), chain[1]):
        seen = run(module, words, root / "log")
        held = bool(seen.error) and "\n" not in seen.error
        yield Row("line break in an image's name", module, "one error", seen.summary()[:150], held)


HOSTILE_VALUES = [
    "x;touch owned",
    "$(touch owned)",
    "`touch owned`",
    "-x",
    "--output",
    "a\nb",
    "a b'c\"d",
    "../../up",
    "{x}",
]


def hostile_config(bench: Bench, work: Path, values: list[str] = HOSTILE_VALUES) -> Iterator[Row]:
    """Put hostile words under the keys of the configuration that hold paths and names, and run what takes them."""
    places: dict[str, Callable[[str], dict]] = {
        "pathvars.results": lambda word: {"pathvars": {"results": word}},
        "dataset.root": lambda word: {"dataset": {"name": "m3fd", "root": word, "split": "random", "train": 4, "test": 2}},
        "dataset.train_list": lambda word: {"dataset": {"name": "synthetic", "split": "list", "train_list": word, "test_list": word}},
        "dataset.classes": lambda word: {"dataset": {"name": "folders", "classes": [word], "root": "r"}},
        "dataset.visible": lambda word: {"dataset": {"name": "folders", "classes": ["Car"], "visible": [word]}},
        "fnet.data": lambda word: {"fnet": {"data": {"visible": [word], "infrared": [word]}}},
        "fnet.weights": lambda word: {"fnet": {"weights": word}},
        "fusion.weights": lambda word: {"fusion": {"methods": ["u2fusion"], "weights": {"u2fusion": word}}},
        "fusion.methods": lambda word: {"fusion": {"methods": [word]}},
        "detection.weights": lambda word: {"detection": {"weights": word}},
        "test_sets.root": lambda word: {
            "tables": ["table1"],
            "test_sets": {"root": word, "sets": {"T": {"visible": "vi", "infrared": "ir"}}},
        },
        "test_sets.sets": lambda word: {
            "tables": ["table1"],
            "test_sets": {"sets": {word: {"visible": "vi", "infrared": "ir"}}},
        },
        "ablations": lambda word: {"tables": ["table3"], "ablations": {word: {}}},
    }  # fmt: skip
    for place, overlay in places.items():
        wrong, refused = [], 0
        for number, word in enumerate(values):
            folder = work / f"config-{place}-{number}"
            folder.mkdir(parents=True)
            # Everything that could be taken as a path is there, so that jobs start and their shells see the word.
            for name in ("vi", "ir", "Vis", "Ir", "Annotation", "labels", "visible", "infrared"):
                with contextlib.suppress(OSError, ValueError):
                    (folder / word / name).mkdir(parents=True, exist_ok=True)
            status, said = snakemake(folder, "-n", "-p", overlay=yaml.safe_dump(overlay(word)))
            if status == 0 and place in ("dataset.root", "dataset.classes", "dataset.visible", "fnet.data"):
                status, said = snakemake(
                    folder, "--until", "audit_dataset", "train_fnet", overlay=yaml.safe_dump(overlay(word))
                )
            refused += status != 0
            owned = [str(path) for path in work.rglob("owned*")]
            if owned or "Traceback (most" in said or (word.startswith("-") and status == 0):
                wrong.append(f"{word!r}: status {status} {owned} {said.strip().splitlines()[-1][:200]}")
            shutil.rmtree(folder)
        seen = "; ".join(wrong[:2]) or f"{refused} of {len(values)} refused, none run by a shell"
        yield Row("hostile configuration", place, "refused or one quoted word; no option", seen, not wrong)


def snakemake(folder: Path, *options: str, overlay: str | None = None, start: bool = False, **values: object):
    """Run the workflow in `folder` on a very small configuration, or on `overlay`; return its status and text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    (folder / "overlay.yaml").write_text(SMALLEST if overlay is None else overlay)
    command = [BIN / "snakemake", "--snakefile", ROOT / "workflow/Snakefile", "--directory", folder, "--cores", "2"]
    command += ["--workflow-profile", ROOT / "workflow/profiles/default", "--configfile", folder / "overlay.yaml"]
    command = [*map(str, command), *options]
    if start:
        log = (folder / "log").open("w")
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return -1, f"did not end within {LONGEST} s"
    return done.returncode, done.stdout + done.stderr


LONGEST = 900  # seconds of a run of the workflow, far above any
SMALLEST = """
device: cpu
threads: 2
dataset: {name: synthetic}
synthetic: {train: 12, test: 6, size: [96, 64]}
fusion: {methods: [average]}
detection: {image_size: 64, late: false, training: {epochs: 1, batch: 8}}
"""
TARGETS = ["--", "results/metrics/average.csv", "results/fused/average/manifest.csv"]


def workflow(bench: Bench, work: Path) -> Iterator[Row]:
    """Disturb a whole run: killed with its jobs, started twice, its configuration edited, its clock set back."""
    status, said = snakemake(work / "usual", *TARGETS)
    wanted = results(work / "usual/results/metrics") | results(work / "usual/results/fused")
    if status:
        raise RuntimeError(said)

    def ended(folder: Path) -> str:
        found = results(folder / "results/metrics") | results(folder / "results/fused")
        return differences(found, wanted) or "ends alike"

    for number in range(3):
        folder = work / f"killed-{number}"
        process = snakemake(folder, *TARGETS, start=True)
        moment = float(np.random.default_rng([8, number]).uniform(4, 14))
        time.sleep(moment)
        met = process.poll() is None
        os.killpg(process.pid, 9)
        process.wait()
        locked, said = snakemake(folder, *TARGETS)
        if "nlock" in said:
            snakemake(folder, "--unlock")
            status, said = snakemake(folder, *TARGETS)
        else:
            status = locked
        seen = f"at {moment:.1f} s, {'running' if met else 'ended'}; locked: {locked != 0}; then {ended(folder)}"
        yield Row(
            "kill -9 of all",
            "snakemake",
            "--unlock, then ends alike",
            seen,
            status == 0 and ended(folder) == "ends alike",
        )

    folder = work / "twice"
    process = snakemake(folder, *TARGETS, start=True)
    wait_for(folder / "results/data/pairs/synthetic.json")
    status, said = snakemake(folder, *TARGETS)
    first = process.wait()
    line = next((line for line in said.splitlines() if "lock" in line.lower()), said[-200:])
    seen = f"second: status {status}, {line[:100]}; first: {first}, {ended(folder)}"
    held = status != 0 and "lock" in said and first == 0 and ended(folder) == "ends alike"
    yield Row("two runs at once", "snakemake", "the second refuses, the first ends alike", seen, held)

    folder = work / "edited"
    process = snakemake(folder, *TARGETS, start=True)
    wait_for(folder / "results/data/pairs/synthetic.json")
    overlay = SMALLEST.replace("fusion: {", "fusion: {colour: grey, ").replace("test: 6", "test: 8")
    (folder / "overlay.yaml").write_text(overlay)
    first = process.wait()
    same = ended(folder)
    status, said = snakemake(folder, "-n", *TARGETS, overlay=overlay)
    redone = "fuse_pairs" in said and "generate_pairs" in said
    seen = f"status {first}, {same}; next run plans fuse_pairs and generate_pairs: {redone}"
    yield Row("config edited in mid-run", "snakemake", "ends as begun; the next run does what changed", seen,
              first == 0 and same == "ends alike" and redone)  # fmt: skip

    folder = work / "clock"
    snakemake(folder, *TARGETS)
    future = time.time() + 86400
    for path in (folder / "results/data").rglob("*"):
        os.utime(path, (future, future))
    status, said = snakemake(folder, *TARGETS)
    first = ended(folder)
    _, said = snakemake(folder, "-n", *TARGETS)
    nothing = "Nothing to be done" in said
    seen = f"status {status}, {first}; nothing to be done after it: {nothing}"
    yield Row(
        "inputs dated tomorrow", "snakemake", "completes, ends alike", seen, status == 0 and first == "ends alike"
    )


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


FAULTS: dict[str, Callable[..., Iterator[Row]]] = {
    function.__name__: function
    for function in (
        *(kill, full_disk, read_only, truncated, checkpoint, clock, twice, memory, bombs),
        *(hostile_xml, hostile_yaml, hostile_weights, hostile_names, hostile_config, workflow),
    )
}


def main() -> None:
    """Inject, print a table, exit with status 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="kinds of faults")
    parser.add_argument("--stages", nargs="+", choices=list(stages.MODULES), help="of those that go by stages")
    parser.add_argument("--kills", type=int, default=20, help="kills of each stage (default: 20)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder) / "bench")
        print("| fault | stage | expected | seen | held |\n|---|---|---|---|---|", flush=True)
        for name in options.only:
            words = {"kills": options.kills} if name == "kill" else {}
            if options.stages and name in ("kill", "full_disk", "read_only", "twice", "memory", "checkpoint"):
                words["only"] = tuple(options.stages)
            work = Path(folder) / name
            work.mkdir()
            for row in FAULTS[name](bench, work, **words):
                rows.append(row)
                held = {True: "yes", False: "NO", None: "skipped"}[row.held]
                cells = (row.fault, row.stage, row.expected, row.seen.replace(folder, ""), held)
                print("| " + " | ".join(c.replace("\n", " ").replace("|", "\\|") for c in cells) + " |", flush=True)
            shutil.rmtree(work)
    sys.exit(any(row.held is False for row in rows))


if __name__ == "__main__":
    main()
