"""What passes over memory in `fusion.networks.wide`, as Triton kernels for a GPU.

Each function is what the plain one of the same name in `fusion.networks.wide` is, in one pass: every value is read
once and written once, sums are of float32, and no two programs write to one place, so that results repeat. Maps of few
channels may lie in memory in any order; codes and spread maps are channels-last.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusion.networks.lzsc import ALPHA, GAMMA, KERNEL

TAPS: tl.constexpr = tl.constexpr(KERNEL)
REACH: tl.constexpr = tl.constexpr(KERNEL // 2)
SHRINK: tl.constexpr = tl.constexpr(ALPHA)
STEEPNESS: tl.constexpr = tl.constexpr(GAMMA)
PIXELS = 32  # of a program that moves maps
VALUES = 1024  # of a program that steps a code


@triton.jit
def _spread(
    maps,
    wide,
    pixels,
    height,
    width,
    of_image,
    of_map,
    of_row,
    of_column,
    count: tl.constexpr,
    channels: tl.constexpr,
    backwards: tl.constexpr,
    block: tl.constexpr,
    lanes: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    row, x = pixel // width, pixel % width
    image, y = row // height, row % height
    channel = tl.arange(0, lanes)
    # No subtraction from REACH: Triton 3.6 takes what falls from channel to channel for rising; its loads misalign.
    offset = (channel // count - REACH) * (-1 if backwards else 1)
    source = x[:, None] + offset[None, :]
    known = (pixel < pixels)[:, None] & (channel < TAPS * count)[None, :] & (source >= 0) & (source < width)
    place = (image * of_image + y * of_row)[:, None] + (channel % count * of_map)[None, :] + source * of_column
    value = tl.load(maps + place, mask=known, other=0)
    kept = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    tl.store(wide + pixel[:, None] * channels + channel[None, :], value.to(wide.dtype.element_ty), mask=kept)


@triton.jit
def _gather(
    wide,
    maps,
    pixels,
    height,
    width,
    count: tl.constexpr,
    channels: tl.constexpr,
    backwards: tl.constexpr,
    block: tl.constexpr,
    lanes: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    x, lane = pixel % width, tl.arange(0, lanes)
    total = tl.zeros((block, lanes), tl.float32)
    for group in tl.static_range(TAPS):
        offset = REACH - group if backwards else group - REACH
        known = (pixel < pixels) & (x + offset >= 0) & (x + offset < width)
        place = (pixel + offset)[:, None] * channels + group * count + lane[None, :]
        total += tl.load(wide + place, mask=known[:, None] & (lane < count)[None, :], other=0).to(tl.float32)
    area = height * width
    place = (pixel // area * area * count + pixel % area)[:, None] + lane[None, :] * area
    tl.store(maps + place, total, mask=(pixel < pixels)[:, None] & (lane < count)[None, :])


@triton.jit
def _stack(maps, tall, pixels, height, width, channels: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    y, lane = pixel // width % height, tl.arange(0, lanes)
    kept = (pixel < pixels)[:, None] & (lane < channels)[None, :]
    for group in tl.static_range(TAPS):
        offset = group - REACH
        known = kept & ((y + offset >= 0) & (y + offset < height))[:, None]
        value = tl.load(maps + (pixel + offset * width)[:, None] * channels + lane[None, :], mask=known, other=0)
        tl.store(tall + pixel[:, None] * (TAPS * channels) + group * channels + lane[None, :], value, mask=kept)


@triton.jit
def _moved(v, u, u_before, rho, place, known, steps: tl.constexpr):
    """Return v + (1 + rho) u - rho u_before, of which `steps` says how many there are."""
    x = tl.load(v + place, mask=known, other=0).to(tl.float32)
    if steps > 0:
        x += (1 + tl.load(rho)) * tl.load(u + place, mask=known, other=0).to(tl.float32)
    if steps > 1:
        x -= tl.load(rho) * tl.load(u_before + place, mask=known, other=0).to(tl.float32)
    return x


@triton.jit
def _step(v, u, u_before, rho, theta, result, size, steps: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    known = place < size
    x, limit = _moved(v, u, u_before, rho, place, known, steps), tl.load(theta)
    kept = (tl.abs(x) - limit * SHRINK) / (1 + tl.exp((limit - tl.abs(x)) * STEEPNESS))
    value = tl.where(x > 0, kept, tl.where(x < 0, -kept, x))  # what is no number stays none
    tl.store(result + place, value.to(result.dtype.element_ty), mask=known)


@triton.jit
def _step_backward(
    gradient,
    v,
    u,
    u_before,
    rho,
    theta,
    of_v,
    of_u,
    of_u_before,
    of_rho,
    of_theta,
    size,
    steps: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    known = place < size
    x, limit = _moved(v, u, u_before, rho, place, known, steps), tl.load(theta)
    share = 1 / (1 + tl.exp((limit - tl.abs(x)) * STEEPNESS))
    kept = tl.abs(x) - limit * SHRINK
    steep = kept * STEEPNESS * share * (1 - share)
    above = tl.load(gradient + place, mask=known, other=0).to(tl.float32)
    above = tl.where(x == 0, 0.0, above)
    through = above * (share + steep)
    tl.store(of_v + place, through.to(of_v.dtype.element_ty), mask=known)
    signed = tl.where(x > 0, above, -above)
    tl.store(of_theta + tl.program_id(0), -tl.sum(signed * (share * SHRINK + steep)))
    if steps > 0:
        momentum = tl.load(rho)
        tl.store(of_u + place, (through * (1 + momentum)).to(of_u.dtype.element_ty), mask=known)
        moved = tl.load(u + place, mask=known, other=0).to(tl.float32)
        if steps > 1:
            tl.store(of_u_before + place, (-through * momentum).to(of_u_before.dtype.element_ty), mask=known)
            moved -= tl.load(u_before + place, mask=known, other=0).to(tl.float32)
        tl.store(of_rho + tl.program_id(0), tl.sum(through * moved))


def spread(maps: Tensor, channels: int, backwards: bool, kind: torch.dtype) -> Tensor:
    """Lay out the nine horizontal shifts of maps side by side."""
    images, count, height, width = maps.shape
    shape, where = (images, channels, height, width), {"dtype": kind, "device": maps.device}
    wide = torch.empty(shape, **where, memory_format=torch.channels_last)
    pixels = images * height * width
    sizes = {"count": count, "channels": channels, "backwards": backwards, "block": PIXELS}
    _spread[(triton.cdiv(pixels, PIXELS),)](
        maps, wide, pixels, height, width, *maps.stride(), **sizes, lanes=triton.next_power_of_2(channels)
    )
    return wide


def gather(wide: Tensor, count: int, backwards: bool) -> Tensor:
    """Shift nine groups of maps, each by its place, and sum them."""
    wide = wide.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = wide.shape
    maps = wide.new_empty((images, count, height, width), dtype=torch.float32)
    pixels = images * height * width
    sizes = {"count": count, "channels": channels, "backwards": backwards, "block": PIXELS}
    _gather[(triton.cdiv(pixels, PIXELS),)](
        wide, maps, pixels, height, width, **sizes, lanes=triton.next_power_of_2(count)
    )
    return maps


def stack(maps: Tensor) -> Tensor:
    """Lay out the nine vertical shifts of channels-last maps side by side."""
    images, channels, height, width = maps.shape
    tall = maps.new_empty((images, height, width, TAPS.value * channels))
    pixels, sizes = images * height * width, {"channels": channels, "block": PIXELS}
    _stack[(triton.cdiv(pixels, PIXELS),)](
        maps, tall, pixels, height, width, **sizes, lanes=triton.next_power_of_2(channels)
    )
    return tall


class Step(torch.autograd.Function):
    """Momentum and threshold of a code, T(v + (1 + rho) u - rho u_before), without or with the one and the other u."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, u: Tensor | None, u_before: Tensor | None, rho: Tensor, theta: Tensor) -> Tensor:
        """Step; the result has the number type of v."""
        codes = [
            None if code is None else code.contiguous(memory_format=torch.channels_last) for code in (v, u, u_before)
        ]
        ctx.save_for_backward(*codes, rho, theta)
        result = torch.empty_like(codes[0])
        steps, size = 2 - codes[1:].count(None), v.numel()
        _step[(triton.cdiv(size, VALUES),)](*_given(codes), rho, theta, result, size, steps=steps, block=VALUES)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` took."""
        *codes, rho, theta = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        steps, size = 2 - codes[1:].count(None), gradient.numel()
        programs = triton.cdiv(size, VALUES)
        gradients = [None if code is None else torch.empty_like(code) for code in codes]
        # Sums of each program, summed afterwards: in the same order at every run.
        of_rho, of_theta = torch.zeros((2, programs), dtype=torch.float32, device=gradient.device)
        _step_backward[(programs,)](
            gradient, *_given(codes), rho, theta, *_given(gradients), of_rho, of_theta, size, steps=steps, block=VALUES
        )
        return *gradients, of_rho.sum().view_as(rho), of_theta.sum().view_as(theta)


def _given(tensors: list[Tensor | None]) -> list[Tensor]:
    """Return the tensors, with the first for those that there are not, which the kernels do not touch."""
    return [tensors[0] if tensor is None else tensor for tensor in tensors]


def probe(device: torch.device) -> None:
    """Compile and run a small kernel; whatever Triton raises where it cannot."""
    maps = torch.ones((1, 1, 1, 1), device=device)
    if gather(spread(maps, 16, False, torch.float32), 1, False).item() != 1:
        raise RuntimeError("a kernel computed a wrong value")
