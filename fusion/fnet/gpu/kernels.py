"""The operations of `fusion.fnet.gpu.columns` as Triton kernels for a GPU.

Each function computes the same as the plain function of the same name, in one pass: every value is read about once and
written once. Sums are of float32, and no two programs write to the same address, so that results are reproducible. Maps
of few channels may have any memory layout; codes and spread maps are channels-last.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusion.fnet.lzsc import ALPHA, GAMMA, HALF, KERNEL

TAPS: tl.constexpr = tl.constexpr(KERNEL)
MIDDLE: tl.constexpr = tl.constexpr(HALF)  # the tap with offset 0
SHRINK: tl.constexpr = tl.constexpr(ALPHA)
STEEPNESS: tl.constexpr = tl.constexpr(GAMMA)
PIXELS = 32  # per program that shifts maps
VALUES = 1024  # per program that computes momentum and threshold of a code
# Pixels per program that convolves: the reads of its nine taps overlap and stay in the first-level cache.
ROWS, COLUMNS = 8, 16
BLOCK = 64  # pixels that a program multiplies at a time for the gradient of weights
TOGETHER = 128  # columns (taps times channels) of the products per program
SLICES = 256  # slices of the image rows, each summed by its own programs


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
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    row, x = pixel // width, pixel % width
    image, y = (row // height).to(tl.int64), row % height
    channel = tl.arange(0, lanes)
    # Not MIDDLE - ...: Triton 3.6 takes addresses that decrease from channel to channel for increasing ones, and its
    # loads are misaligned.
    offset = (channel // count - MIDDLE) * (-1 if backwards else 1)
    source = x[:, None] + offset[None, :]
    known = (pixel < pixels)[:, None] & (channel < TAPS * count)[None, :] & (source >= 0) & (source < width)
    place = (image * of_image + y * of_row)[:, None] + (channel % count * of_map)[None, :] + source * of_column
    value = tl.load(maps + place, mask=known, other=0)
    kept = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(wide + place, value.to(wide.dtype.element_ty), mask=kept)


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
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    x, lane = pixel % width, tl.arange(0, lanes)
    total = tl.zeros((block, lanes), tl.float32)
    for group in tl.static_range(TAPS):
        offset = MIDDLE - group if backwards else group - MIDDLE
        known = (pixel < pixels) & (x + offset >= 0) & (x + offset < width)
        place = (pixel + offset).to(tl.int64)[:, None] * channels + group * count + lane[None, :]
        total += tl.load(wide + place, mask=known[:, None] & (lane < count)[None, :], other=0).to(tl.float32)
    area = height * width
    place = ((pixel // area).to(tl.int64) * area * count + pixel % area)[:, None] + lane[None, :] * area
    tl.store(maps + place, total, mask=(pixel < pixels)[:, None] & (lane < count)[None, :])


@triton.jit
def _stack(maps, tall, pixels, height, width, channels: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    y, lane = pixel // width % height, tl.arange(0, lanes)
    kept = (pixel < pixels)[:, None] & (lane < channels)[None, :]
    for group in tl.static_range(TAPS):
        offset = group - MIDDLE
        known = kept & ((y + offset >= 0) & (y + offset < height))[:, None]
        value = tl.load(
            maps + (pixel + offset * width).to(tl.int64)[:, None] * channels + lane[None, :], mask=known, other=0
        )
        tl.store(
            tall + pixel.to(tl.int64)[:, None] * (TAPS * channels) + group * channels + lane[None, :], value, mask=kept
        )


@triton.jit
def _column(
    maps,
    taps,
    result,
    height,
    width,
    of_tap,
    of_channel,
    of_filter,
    backwards: tl.constexpr,
    channels: tl.constexpr,
    filters: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    lanes: tl.constexpr,
    filter_lanes: tl.constexpr,
):
    across, down = tl.cdiv(width, columns), tl.cdiv(height, rows)
    program, place = tl.program_id(0), tl.arange(0, rows * columns)
    y = program // across % down * rows + place // columns
    x = program % across * columns + place % columns
    first = (program // across // down).to(tl.int64) * height * width
    lane, filter_lane = tl.arange(0, lanes), tl.arange(0, filter_lanes)
    total = tl.zeros((rows * columns, filter_lanes), tl.float32)
    for tap in tl.static_range(TAPS):
        source = y + tap - MIDDLE
        known = (source >= 0) & (source < height) & (x < width)
        place = maps + first * channels + (source * width + x)[:, None] * channels + lane[None, :]
        seen = tl.load(place, mask=known[:, None] & (lane < channels)[None, :], other=0)
        turned = TAPS - 1 - tap if backwards else tap
        place = taps + turned * of_tap + lane[:, None] * of_channel + filter_lane[None, :] * of_filter
        weights = tl.load(place, mask=(lane < channels)[:, None] & (filter_lane < filters)[None, :], other=0)
        total = tl.dot(seen, weights, total, input_precision="ieee")
    known = (y < height) & (x < width)
    place = result + first * filters + (y * width + x)[:, None] * filters + filter_lane[None, :]
    tl.store(place, total.to(result.dtype.element_ty), mask=known[:, None] & (filter_lane < filters)[None, :])


@triton.jit
def _products(
    fixed,
    moved,
    sums,
    lines,
    height,
    width,
    in_slice: tl.constexpr,
    across: tl.constexpr,
    fixed_channels: tl.constexpr,
    channels: tl.constexpr,
    together: tl.constexpr,
    block: tl.constexpr,
    fixed_lanes: tl.constexpr,
    lanes: tl.constexpr,
):
    fixed_lane, number, place = tl.arange(0, fixed_lanes), tl.arange(0, together * lanes), tl.arange(0, block)
    tap, lane = tl.program_id(0) * together + number // lanes, number % lanes
    wanted = (tap < TAPS) & (lane < channels)
    near = place[:, None] * channels + ((tap - MIDDLE) * width * channels + lane)[None, :]
    here = place[None, :] * fixed_channels + fixed_lane[:, None]
    start = tl.program_id(1) * in_slice
    total = tl.zeros((fixed_lanes, together * lanes), tl.float32)
    for index in range(in_slice * across):
        line = start + index // across
        left = index % across * block
        first = line.to(tl.int64) * width + left
        source = line % height + tap - MIDDLE
        known = place < tl.where(line < lines, width - left, 0)
        seen = wanted & (source >= 0) & (source < height)
        fixed_values = tl.load(
            fixed + first * fixed_channels + here,
            mask=known[None, :] & (fixed_lane < fixed_channels)[:, None],
            other=0,
        )
        values = tl.load(moved + first * channels + near, mask=known[:, None] & seen[None, :], other=0)
        total = tl.dot(fixed_values, values, total, input_precision="ieee")
    row = (tl.program_id(1) * fixed_channels + fixed_lane) * (TAPS * channels)
    place = row[:, None] + (tap * channels + lane)[None, :]
    tl.store(sums + place, total, mask=(fixed_lane < fixed_channels)[:, None] & wanted[None, :])


@triton.jit
def _moved(v, u, u_before, rho, place, known, steps: tl.constexpr):
    """Return v + (1 + rho) u - rho u_before; `steps` is the number of codes that exist, u before u_before."""
    x = tl.load(v + place, mask=known, other=0).to(tl.float32)
    if steps > 0:
        x += (1 + tl.load(rho)) * tl.load(u + place, mask=known, other=0).to(tl.float32)
    if steps > 1:
        x -= tl.load(rho) * tl.load(u_before + place, mask=known, other=0).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["k"])
def _step(
    v,
    u,
    u_before,
    rho,
    theta,
    k,
    result,
    size,
    steps: tl.constexpr,
    soft: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    known = place < size
    x, limit = _moved(v, u, u_before, rho + k, place, known, steps), tl.load(theta + k)
    if soft:
        kept = tl.where(tl.abs(x) <= limit, 0.0, tl.abs(x) - limit)
    else:
        kept = (tl.abs(x) - limit * SHRINK) / (1 + tl.exp((limit - tl.abs(x)) * STEEPNESS))
    value = tl.where(x > 0, kept, tl.where(x < 0, -kept, x))  # keeps NaN
    tl.store(result + place, value.to(result.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=["k"])
def _step_backward(
    gradient,
    of_v_next,
    of_v_after,
    v,
    u,
    u_before,
    rho,
    theta,
    k,
    of_v,
    of_rho,
    of_theta,
    size,
    later: tl.constexpr,
    steps: tl.constexpr,
    soft: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    known = place < size
    x, limit = _moved(v, u, u_before, rho + k, place, known, steps), tl.load(theta + k)
    if soft:
        slope = tl.where(tl.abs(x) <= limit, 0.0, 1.0)
        shrinking = slope
    else:
        share = 1 / (1 + tl.exp((limit - tl.abs(x)) * STEEPNESS))
        steep = (tl.abs(x) - limit * SHRINK) * STEEPNESS * share * (1 - share)
        slope, shrinking = share + steep, share * SHRINK + steep
    above = tl.load(gradient + place, mask=known, other=0).to(tl.float32)
    if later > 0:
        above += (1 + tl.load(rho + k + 1)) * tl.load(of_v_next + place, mask=known, other=0).to(tl.float32)
    if later > 1:
        above -= tl.load(rho + k + 2) * tl.load(of_v_after + place, mask=known, other=0).to(tl.float32)
    above = tl.where(x == 0, 0.0, above)
    through = above * slope
    tl.store(of_v + place, through.to(of_v.dtype.element_ty), mask=known)
    signed = tl.where(x > 0, above, -above)
    tl.store(of_theta + tl.program_id(0), -tl.sum(signed * shrinking))
    if steps > 0:
        moved = tl.load(u + place, mask=known, other=0).to(tl.float32)
        if steps > 1:
            moved -= tl.load(u_before + place, mask=known, other=0).to(tl.float32)
        tl.store(of_rho + tl.program_id(0), tl.sum(through * moved))


def spread(maps: Tensor, channels: int, backwards: bool, dtype: torch.dtype) -> Tensor:
    """Return the nine horizontal shifts of maps as channels."""
    images, count, height, width = maps.shape
    shape = images, channels, height, width
    wide = torch.empty(shape, dtype=dtype, device=maps.device, memory_format=torch.channels_last)
    pixels = images * height * width
    _spread[(triton.cdiv(pixels, PIXELS),)](
        maps,
        wide,
        pixels,
        height,
        width,
        *maps.stride(),
        count=count,
        channels=channels,
        backwards=backwards,
        block=PIXELS,
        lanes=triton.next_power_of_2(channels),
    )
    return wide


def gather(wide: Tensor, count: int, backwards: bool) -> Tensor:
    """Return the sum of nine groups of maps, each shifted by its offset."""
    wide = wide.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = wide.shape
    maps = wide.new_empty((images, count, height, width), dtype=torch.float32)
    pixels = images * height * width
    _gather[(triton.cdiv(pixels, PIXELS),)](
        wide,
        maps,
        pixels,
        height,
        width,
        count=count,
        channels=channels,
        backwards=backwards,
        block=PIXELS,
        lanes=triton.next_power_of_2(count),
    )
    return maps


def stack(maps: Tensor) -> Tensor:
    """Return the nine vertical shifts of channels-last maps as channels."""
    images, channels, height, width = maps.shape
    tall = maps.new_empty((images, height, width, TAPS.value * channels))
    pixels, lanes = images * height * width, triton.next_power_of_2(channels)
    _stack[(triton.cdiv(pixels, PIXELS),)](
        maps, tall, pixels, height, width, channels=channels, block=PIXELS, lanes=lanes
    )
    return tall


def column(maps: Tensor, taps: Tensor, backwards: bool) -> Tensor:
    """Convolve channels-last maps (N, c, H, W) with a column of nine taps (9, c, o), zero-padded."""
    images, channels, height, width = maps.shape
    filters = taps.shape[2]
    shape = images, filters, height, width
    result = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)
    programs = images * triton.cdiv(height, ROWS) * triton.cdiv(width, COLUMNS)
    _column[(programs,)](
        maps,
        taps,
        result,
        height,
        width,
        *taps.stride(),
        backwards=backwards,
        channels=channels,
        filters=filters,
        rows=ROWS,
        columns=COLUMNS,
        lanes=_lanes(channels),
        filter_lanes=_lanes(filters),
        num_stages=1,
    )
    return result


def products(fixed: Tensor, moved: Tensor) -> Tensor:
    """Return the sums over pixels of fixed[a](y) moved[b](y + dy - 4), (a, dy, b), float32; maps are channels-last."""
    images, channels, height, width = moved.shape
    count, lines, lanes = fixed.shape[1], images * height, _lanes(channels)
    together = max(1, TOGETHER // lanes)
    in_slice = triton.cdiv(lines, SLICES)
    slices = triton.cdiv(lines, in_slice)
    sums = torch.empty((slices, count, TAPS.value, channels), dtype=torch.float32, device=moved.device)
    _products[(triton.cdiv(TAPS.value, together), slices)](
        fixed,
        moved,
        sums,
        lines,
        height,
        width,
        in_slice,
        triton.cdiv(width, BLOCK),
        fixed_channels=count,
        channels=channels,
        together=together,
        block=BLOCK,
        fixed_lanes=_lanes(count),
        lanes=lanes,
        num_stages=3,
    )
    return sums.sum(0)


def _lanes(channels: int) -> int:
    """Return the side of the smallest tile of a matrix unit for this number of channels."""
    return max(16, triton.next_power_of_2(channels))


def step(v: Tensor, before: Sequence[Tensor], rho: Tensor, theta: Tensor, k: int, soft: bool) -> Tensor:
    """Return u^k from v and the codes before it, at most two, in the order of their steps; in the number type of v."""
    result, size, steps = torch.empty_like(v), v.numel(), len(before)
    codes = [v, *reversed(before)]
    _step[(triton.cdiv(size, VALUES),)](
        *_filled(codes), rho, theta, k, result, size, steps=steps, soft=soft, block=VALUES
    )
    return result


def step_backward(
    gradient: Tensor,
    later: Sequence[Tensor],
    v: Tensor,
    before: Sequence[Tensor],
    rho: Tensor,
    theta: Tensor,
    k: int,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of v, rho^k and theta^k.

    gradient: the gradient of u^k through the maps that are computed from it.
    later: the gradients of v^{k+1} and v^{k+2}, or only of those that depend on u^k directly.
    """
    of_v, size = torch.empty_like(v), v.numel()
    programs = triton.cdiv(size, VALUES)
    # Every program writes its own sum; these are added up afterwards, in the same order in every run.
    of_rho, of_theta = torch.zeros((2, programs), dtype=torch.float32, device=v.device)
    codes = [*_filled([gradient, *later]), *_filled([v, *reversed(before)])]
    _step_backward[(programs,)](
        *codes,
        rho,
        theta,
        k,
        of_v,
        of_rho,
        of_theta,
        size,
        later=len(later),
        steps=len(before),
        soft=soft,
        block=VALUES,
    )
    return of_v, of_rho.sum(), of_theta.sum()


def _filled(tensors: list[Tensor]) -> list[Tensor]:
    """Return three tensors; missing ones are replaced by the first one, and the kernels do not read them."""
    return tensors + tensors[:1] * (3 - len(tensors))


def probe(device: torch.device) -> None:
    """Compile and run small kernels; raise Triton's error if that fails, RuntimeError for a wrong result."""
    maps = torch.ones((1, 1, 1, 1), device=device)
    if gather(spread(maps, 16, False, torch.float32), 1, False).item() != 1:
        raise RuntimeError("a kernel computed a wrong value")
