"""Measure how much faster FNet's fast path is than the plain network, and how closely the two agree, in one run.

Timed are the inference of one 320x320 pair, and one training step of stage II (only FNet, batch 4, 128x128: forward,
loss, backward, Adam; on a GPU captured as a CUDA graph and replayed, as in `fusion.train`). Each is run in float32 and
with bfloat16 products, alternately with the plain network in eager float32; the results are medians after a warm-up.
`--size 1024 768 --batch 16` is the size of M3FD's pairs and the paper's batch, for a GPU.

`limit_s` is the time of only the multiply-adds at the rate of a large matrix product, measured in the same run and
number type; a training step has three times the multiply-adds of its forward pass. On a CPU, both number types use the
same path, whose Fourier transforms need fewer multiply-adds than counted here.

Agreement is measured against the plain network in float32: for inference on whole pairs, in grey levels and in the
metrics (the largest difference of one image, and of the mean over the images); for training in the loss, in each
tensor's gradient and in all gradients as one vector. `naive_gradient_relative_error` and `fast_gradient_relative_error`
compare each path with float64.

`folder` is the overhead of fusing a folder (`fusion.fuse` from start to end, with reading, writing, digests and the
manifest) over only running the network. Pairs and weights are generated unless they are given.
"""

import argparse
import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion.fnet.fast import DTYPES, prepare, trainable
from fusion.fnet.gpu.graphs import captured
from fusion.fnet.losses import stage2_loss
from fusion.fnet.merged import apply_block, connect, merge_network
from fusion.fnet.network import FNet
from fusion.fuse import main as fuse_folder
from fusion.methods.fnet import network as make_network
from fusion.metrics import prepare as prepare_sources
from fusion.metrics import score
from fusion.synthetic.scene import make_scene
from pipeline.artefacts import versions, write_json
from pipeline.colour import split_pair
from pipeline.devices import DEVICES, claimed_device
from pipeline.pairs import find_pairs, write_image
from pipeline.stage import InputError, run

MULTIPLY_ADDS = 419_904  # per pixel: every weight is used once
CROP = 128
PAPER = ("MI", "VIF", "Qabf", "SSIM")

Pair = tuple[np.ndarray, np.ndarray]  # visible luma and infrared, uint8 (H, W)


def generated_pairs(count: int, least: Sequence[int]) -> list[Pair]:
    """Return generated pairs, visible as luma, with sides of at least 512x384 and `least`, width and height."""
    width, height = (max(sides) for sides in zip(least, (512, 384), strict=True))
    scenes = [make_scene(0, index, width, height) for index in range(count)]
    return [(np.rint(s.visible @ np.float64([0.299, 0.587, 0.114])).astype(np.uint8), s.infrared) for s in scenes]


def read_pairs(visible: Path, infrared: Path, count: int | None) -> list[Pair]:
    """Read pairs as grey images, as the authors do."""
    return [split_pair(pair, "grey")[:2] for pair in find_pairs([visible], [infrared])[:count]]


def as_tensors(pair: Pair, device: str) -> list[Tensor]:
    """Return a pair as the network's input tensors."""
    return [torch.from_numpy(np.float32(image) / 255)[None, None].to(device) for image in pair]


def batch_of(pairs: Sequence[Pair], size: int, seed: int) -> Tensor:
    """Return a training batch of `size` random crops: visible and infrared, (2, N, 1, CROP, CROP)."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(size):
        pair = np.stack(pairs[rng.integers(len(pairs))])
        top, left = (rng.integers(side - CROP + 1) for side in pair.shape[1:])
        crops.append(pair[:, top : top + CROP, left : left + CROP])
    return torch.from_numpy(np.stack(crops, axis=1)[:, :, None].astype(np.float32) / 255)


def seconds(function: Callable[[], object], device: str) -> np.ndarray:
    """Return the time of one call until it ends on the device: elapsed seconds, processor seconds of all threads."""
    if device != "cpu":
        torch.cuda.synchronize()
    start, start_cpu = time.perf_counter(), time.process_time()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return np.array([time.perf_counter() - start, time.process_time() - start_cpu])


def medians(functions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, np.ndarray]:
    """Return each function's median `seconds`; the calls alternate, so that other load affects all equally."""
    for function in functions.values():
        for _ in range(3 if device != "cpu" else 1):
            function()
    times: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: np.median(values, axis=0) for name, values in times.items()}


def compared(naive: np.ndarray, fast: np.ndarray) -> dict[str, float]:
    """Return the seconds and ratios of two paths; a busy machine disturbs the ratio of processor time less."""
    return {
        "naive_s": float(naive[0]),
        "fast_s": float(fast[0]),
        "ratio": float(naive[0] / fast[0]),
        "processor_ratio": float(naive[1] / fast[1]),
    }


def multiply_adds_per_second(dtype: torch.dtype, device: str) -> float:
    """Return the rate of a large matrix product, the best of eight."""
    side = 2048 if device == "cpu" else 8192
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return side**3 / float(min(seconds(lambda: left @ right, device)[0] for _ in range(8)))


# --- Inference -------------------------------------------------------------------------------------------------------


def fused_images(network: Callable[..., Tensor], pairs: Sequence[Pair], device: str) -> list[np.ndarray]:
    """Return the fused images of whole pairs, 8 bits per pixel."""
    with torch.inference_mode():
        outputs = [network(*as_tensors(pair, device))[0, 0].float().cpu().numpy() for pair in pairs]
    return [np.rint(np.clip(output, 0, 1) * 255).astype(np.uint8) for output in outputs]


def agreement(plain: Sequence[np.ndarray], fast: Sequence[np.ndarray], pairs: Sequence[Pair]) -> dict[str, float]:
    """Compare the fused images of both paths, and their metrics."""
    most, total, different, pixels = 0, 0, 0, 0
    shifts = []  # for every pair, the metrics of the fast path minus those of the plain path
    for pair, one, other in zip(pairs, plain, fast, strict=True):
        difference = np.abs(one.astype(int) - other)
        most = max(most, int(difference.max()))
        total, different, pixels = total + difference.sum(), different + (difference > 0).sum(), pixels + one.size
        sources = prepare_sources(*pair)
        scores = [score(sources, image, PAPER) for image in (one, other)]
        shifts.append([scores[1][name] - scores[0][name] for name in PAPER])
    return {
        "max_grey_levels": most,
        "mean_grey_levels": float(total / pixels),
        "pixels_different": float(different / pixels),
        "largest_metric_difference": float(np.abs(shifts).max()),
        "largest_mean_metric_difference": float(np.abs(np.mean(shifts, axis=0)).max()),
    }


def measure_inference(
    plain: FNet, pairs: Sequence[Pair], size: Sequence[int], rates: dict[str, float], rounds: int, device: str
) -> dict[str, dict[str, float]]:
    width, height = size
    crop = [image[..., :height, :width].contiguous() for image in as_tensors(pairs[0], device)]
    fast = {precision: prepare(plain, precision) for precision in DTYPES}
    functions: dict[str, Callable[[], object]] = {name: (lambda f=f: f(*crop)) for name, f in fast.items()}
    with torch.inference_mode():
        times = medians({"naive": lambda: plain(*crop), **functions}, rounds, device)
    expected = fused_images(plain, pairs, device)
    return {
        precision: {
            **compared(times["naive"], times[precision]),
            "limit_s": MULTIPLY_ADDS * crop[0].numel() / rates[precision],
            **agreement(expected, fused_images(function, pairs, device), pairs),
        }
        for precision, function in fast.items()
    }


# --- Training --------------------------------------------------------------------------------------------------------


def training_step(network: FNet, precision: str | None, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a step of stage II that leaves its gradients in the network; the precision None is the plain path."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    fuse = network if precision is None else trainable(network, precision)

    def fill(pair: Tensor) -> Tensor:
        loss = stage2_loss(fuse(*pair), *pair)["total"]
        for parameter in network.parameters():
            parameter.grad = None
        loss.backward()
        return loss.detach()

    run_fill = captured(fill, example) if precision is not None and example.is_cuda else fill

    def step(pair: Tensor) -> Tensor:
        loss = run_fill(pair)
        optimiser.step()
        return loss

    return step


def largest_difference(gradients: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative difference of a tensor's gradient, the norm of the difference over the norm."""
    pairs = zip(gradients, expected, strict=True)
    return max(float((found - reference).norm() / reference.norm()) for found, reference in pairs)


def whole(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return all gradients as one vector, in a list."""
    return [torch.cat([gradient.flatten() for gradient in gradients])]


def measure_training(
    plain: FNet, pairs: Sequence[Pair], size: int, rates: dict[str, float], rounds: int, device: str
) -> dict[str, dict[str, float]]:
    batch = batch_of(pairs, size, 0).to(device)
    networks = {name: copy.deepcopy(plain) for name in ("naive", *DTYPES)}
    # The first step of each path starts from the same weights, so that losses and gradients are comparable.
    steps, losses, gradients = {}, {}, {}
    for name, network in networks.items():
        steps[name] = training_step(network, None if name == "naive" else name, batch)
        losses[name] = float(steps[name](batch))
        gradients[name] = [parameter.grad.clone() for parameter in network.parameters()]
    times = medians({name: (lambda s=step: s(batch)) for name, step in steps.items()}, rounds, device)
    # Where the loss or a threshold is steep, float32 itself differs from float64; no path can agree better than that.
    exact = copy.deepcopy(plain).double()
    # In float64, the merged network is as exact as the plain one, and faster.
    stage2_loss(connect(merge_network(exact), apply_block, batch.double()), *batch.double())["total"].backward()
    exact_gradients = [parameter.grad for parameter in exact.parameters()]
    results = {}
    for name in DTYPES:
        results[name] = {
            **compared(times["naive"], times[name]),
            "limit_s": 3 * MULTIPLY_ADDS * batch[0].numel() / rates[name],
            "loss_relative_error": abs(losses[name] / losses["naive"] - 1),
            "gradient_relative_error": largest_difference(gradients[name], gradients["naive"]),
            "whole_gradient_relative_error": largest_difference(whole(gradients[name]), whole(gradients["naive"])),
            "naive_gradient_relative_error": largest_difference(gradients["naive"], exact_gradients),
            "fast_gradient_relative_error": largest_difference(gradients[name], exact_gradients),
        }
    return results


def measure_long(plain: FNet, pairs: Sequence[Pair], size: int, steps: int, device: str) -> float:
    """Return the relative difference of bfloat16's and float32's final losses, each the mean of the last 20 steps."""
    ends = {}
    for name in DTYPES:
        example = batch_of(pairs, size, 0).to(device)
        step, losses = training_step(copy.deepcopy(plain), name, example), []
        for index in range(steps):
            losses.append(float(step(batch_of(pairs, size, index).to(device))))
            if (index + 1) % 20 == 0:
                logging.info("fnet_speed: %s %d/%d steps", name, index + 1, steps)
        ends[name] = statistics.mean(losses[-20:])
    return abs(ends["bf16"] / ends["fp32"] - 1)


# --- A folder --------------------------------------------------------------------------------------------------------


def measure_folder(plain: FNet, pairs: Sequence[Pair], options: argparse.Namespace, device: str) -> dict[str, float]:
    """Time `fusion.fuse` on a folder of pairs alternately with only the network on the same pairs."""
    weights, threads = options.weights, options.threads
    pairs = [pairs[index % len(pairs)] for index in range(options.folder)]
    network = prepare(plain, options.precision)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for index, pair in enumerate(pairs):
            for folder, image in zip(("visible", "infrared"), pair, strict=True):
                (root / folder).mkdir(exist_ok=True)
                write_image(root / folder / f"{index:03}.png", image)
        if weights is None:
            weights = root / "weights.pt"
            torch.save({key: value.cpu() for key, value in plain.state_dict().items()}, weights)
        arguments = ["--method", "fnet", "--weights", str(weights), "--device", device.split(":")[0]]
        arguments += ["--precision", options.precision]
        arguments += ["--visible", str(root / "visible"), "--infrared", str(root / "infrared")]
        arguments += ["--threads", str(threads)] if threads else []
        # A new folder for every call, so that nothing is skipped as finished.
        outputs = (str(root / f"fused-{index}") for index in range(options.rounds + 3))
        times = medians(
            {
                "network": lambda: [network(*as_tensors(pair, device)).cpu() for pair in pairs],
                "fuse": lambda: fuse_folder([*arguments, "--output", next(outputs)]),
            },
            options.rounds,
            device,
        )
    return {
        "pairs": len(pairs),
        "precision": options.precision,
        "network_s": float(times["network"][0]),
        "fuse_s": float(times["fuse"][0]),
        "loss": float(times["fuse"][0] / times["network"][0] - 1),
        "processor_loss": float(times["fuse"][1] / times["network"][1] - 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="JSON file for the results")
    parser.add_argument("--pairs", type=Path, nargs=2, metavar="DIR", help="folders of visible and infrared images")
    parser.add_argument(
        "--weights", type=Path, help="FNet's weights; random ones, the default, agree less due to steep thresholds"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="compare on only the first N pairs")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 320), metavar=("W", "H"), help="size of the timed pair, pixels"
    )
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="crops per training step")
    parser.add_argument("--folder", type=int, default=4, metavar="N", help="number of whole pairs in the folder")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="of fusing the folder")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="number of timed calls, whose median counts")
    parser.add_argument("--long", action="store_true", help="also train for 200 steps in both number types")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default all that this process may use")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: expected at least 1")
    if options.pairs:
        pairs = read_pairs(*options.pairs, options.limit)
    else:
        pairs = generated_pairs(options.limit or 2, options.size)
    with claimed_device(options.device, options.threads) as device:
        torch.manual_seed(0)
        plain = make_network(options.weights).to(device)
    # Measured first, as in a fresh process, and outside the claim, because `fusion.fuse` claims the device itself.
    folder = measure_folder(plain, pairs, options, device)
    with claimed_device(options.device, options.threads) as device:
        plain = plain.to(device)
        rates = {name: multiply_adds_per_second(kind, device) for name, kind in DTYPES.items()}
        inference = measure_inference(plain, pairs, options.size, rates, options.rounds, device)
        training = measure_training(plain, pairs, options.batch, rates, options.rounds, device)
        results: dict[str, Any] = {f"inference_{name}": values for name, values in inference.items()}
        results |= {f"training_{name}": values for name, values in training.items()}
        if options.long:
            results["training_bf16"]["loss_relative_error_after_200_steps"] = measure_long(
                plain, pairs, options.batch, 200, device
            )
        results |= {
            "multiply_adds_a_second": rates,
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "weights": "random" if options.weights is None else options.weights.name,
            "pairs": len(pairs),
            "size": list(options.size),
            "batch": options.batch,
            "versions": versions("torch", "numpy", "numba"),
        }
    results["folder"] = folder
    write_json(options.json, results)
    for name, values in results.items():
        print(f"{name}:", {k: float(f"{v:.4g}") for k, v in values.items()} if name[-4:] in DTYPES else values)


if __name__ == "__main__":
    run(main)
