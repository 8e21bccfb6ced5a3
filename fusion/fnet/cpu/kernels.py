"""Compiled kernels for a step of a block on tiles of an image; `fusion.fnet.cpu.forward` explains the method.

Arrays are float32. A call processes a chunk of tiles on one thread, without the interpreter's lock, GROUP tiles at a
time: a weight is read once for a group, whose data fit a core's second-level cache. Loops go over slices of rows, so
that the compiler can vectorise them. Callers pass the temporary arrays (`Scratch`), because the operating system would
zero newly allocated memory in every call. Arguments that belong together are named tuples.

The maps (few channels) of a group of tiles are transformed together, as one tile of `fusion.fnet.cpu.fourier`. With n
maps per tile, complex channel t * n + m of this joint tile contains map m of tile t; the channel's imaginary part is 0
before the transform. Spectra of weights, and the sums for the gradients of weights, are flat arrays (32, 32, maps, 64):
horizontal frequency, vertical frequency, map, real and imaginary parts.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from fusion.fnet.cpu.fourier import (
    ALL,
    ANY_ORDER,
    LINE,
    PAIRS,
    POINT,
    ROW,
    SIDE,
    START,
    eights_to_cut_column,
    eights_to_cut_row,
    eights_to_row,
    expanded,
    fours_of_column,
    fours_of_padded_column,
    fours_of_padded_row,
    fours_of_row,
    inlined,
    transform_column,
    transform_rows,
)
from fusion.fnet.lzsc import ALPHA, GAMMA, HALF, KERNEL
from pipeline.compiled import announce, compiled
from pipeline.compiled import inlined as inlined_in_order

kernel = partial(compiled, options=ANY_ORDER)
announce(__name__, "FNet's kernels", 20)

# Side of a tile's inner part. Convolutions by Fourier transforms wrap around at a tile's edges, but not into this part.
INNER = SIDE - 2 * HALF
GROUP = 4  # tiles that are processed together
_ROWS = INNER * ROW  # floats in the inner rows of a tile
_ALPHA, _GAMMA, _ZERO = np.float32(ALPHA), np.float32(GAMMA), np.float32(0)
# Values up to this magnitude are set to 0 before thresholding. Where all inputs of a convolution are 0, the exact
# result is 0, but the Fourier transforms give about 1e-8, and the threshold function is discontinuous at 0. A larger
# bound would change images: with 1e-6, the number of pixels of fused TNO images that differ by one grey level from the
# result of standard PyTorch operations is four times the number with this bound.
_NOISE = np.float32(3e-8)

# --- The threshold -------------------------------------------------------------------------------------------------

_LOG2_E = np.float32(math.log2(math.e))
_LN2_HIGH = np.float32(0.693359375)  # has few bits, so that its products with small whole numbers are exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
# Coefficients of a polynomial that approximates (e^t - 1 - t) / t^2 for abs(t) <= ln(2) / 2.
_FIT = np.polynomial.Chebyshev.interpolate(
    lambda t: np.where(abs(t) < 1e-4, 0.5 + t / 6, (np.expm1(t) - t) / np.where(t == 0, 1, t) ** 2), 5, [-0.35, 0.35]
)
_E0, _E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in _FIT.convert(kind=np.polynomial.Polynomial).coef)


@inlined_in_order
def _gate(magnitude, theta):
    """Return 1 / (1 + e^{-gamma (magnitude - theta)}), accurate to float32's rounding."""
    # Beyond 60, the result is 0 or 1 in float32, and larger exponents would give denormal numbers, which are slow.
    t = min(max(_GAMMA * (theta - magnitude), np.float32(-60)), np.float32(60))
    whole = np.floor(t * _LOG2_E + np.float32(0.5))
    t = t - whole * _LN2_HIGH
    t = t - whole * _LN2_LOW
    p = ((((_E5 * t + _E4) * t + _E3) * t + _E2) * t + _E1) * t + _E0
    power = np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(1) / (np.float32(1) + power * (p * t * t + t + np.float32(1)))


@inlined_in_order
def _sign(value):
    return np.float32(value > 0) - np.float32(value < 0)


@inlined_in_order
def _step_gate(magnitude, theta):
    """Return 0 for a magnitude of at most theta, else 1; 1 for NaN, so that NaN stays NaN."""
    return np.float32(not magnitude <= theta)


def _threshold_of(alpha: np.float32, gate: Callable) -> tuple[Callable, Callable]:
    """Return the functions that compute T(v; theta) = sign(v) (|v| - alpha theta) gate(|v|, theta) and its gradients.

    A gate is `_gate`, or `_step_gate`, whose slope is 0.
    """

    @inlined_in_order
    def activate(v, theta, code):
        """Compute u = T(v; theta), store it in `code`, and overwrite v with it; both are rows."""
        for x in range(v.size):
            magnitude = abs(v[x])
            u = (v[x] - alpha * theta * _sign(v[x])) * gate(magnitude, theta)
            code[x] = u
            v[x] = u

    @inlined_in_order
    def activate_backward(g, v, theta, before, before_last, of_v, sums):
        """Compute the gradient of v from g, which is the gradient of u = T(v; theta); all arrays are rows.

        Store it in `of_v` and overwrite g with it. Add the gradients of theta, and of the factors with which `before`
        and `before_last` were added to v, to the three rows of `sums`.
        """
        by_theta, by_ahead, by_back = sums[0], sums[1], sums[2]
        for x in range(g.size):
            sign, magnitude = _sign(v[x]), abs(v[x])
            share = gate(magnitude, theta)
            slope = (magnitude - alpha * theta) * _GAMMA * share * (np.float32(1) - share)
            by_theta[x] -= g[x] * sign * (alpha * share + slope)
            of = g[x] * sign * sign * (share + slope)
            by_ahead[x] += of * before[x]
            by_back[x] += of * before_last[x]
            of_v[x] = of
            g[x] = of

    return activate, activate_backward


_activate, _activate_backward = _threshold_of(_ALPHA, _gate)  # LZSC's
_activate_soft, _activate_soft_backward = _threshold_of(np.float32(1), _step_gate)  # LCSC's


@inlined
def _add(values, factor, others):
    if factor != 0:
        for x in range(values.size):
            values[x] += factor * others[x]


@inlined
def _copy(values, out):
    # A loop, because for a slice assignment numba would also compile its error message, which takes as long as to
    # compile a transform.
    for x in range(out.size):
        out[x] = values[x]


@inlined
def _drop_noise(values):
    for x in range(values.size):
        values[x] = _ZERO if abs(values[x]) <= _NOISE else values[x]


@inlined_in_order
def _sums(rows):
    """Return the sum of each row."""
    sums = np.zeros(rows.shape[0], np.float32)
    for i in range(rows.shape[0]):
        for x in range(rows.shape[1]):
            sums[i] += rows[i, x]
    return sums


# --- From maps to the spectra of codes, and back -------------------------------------------------------------------


@expanded
def _spectra_of(maps, tiles, spectra, line):
    """Compute the spectra of a group of tiles of the maps, (N, rows, columns, channels).

    `tiles` contains the image, row and column of each tile.
    """
    spectra[:] = _ZERO
    channels = maps.shape[3]
    for t in range(tiles.shape[0]):
        n, top, left = tiles[t, 0], INNER * tiles[t, 1], INNER * tiles[t, 2]
        for y in range(SIDE):
            for x in range(SIDE):
                for m in range(channels):
                    spectra[y * ROW + x * POINT + t * channels + m] = maps[n, top + y, left + x, m]
    transform_rows(spectra, line, tiles.shape[0] * channels)
    for x in range(SIDE):
        transform_column(spectra, x, line, tiles.shape[0] * channels)


def _spread_of(count: int) -> Callable:
    """Return the function that writes the sum over `count` maps of conj(spectrum) * weight to a column.

    The number is a compile-time constant, so that the loop over maps is unrolled and the sums stay in registers.
    """

    @inlined
    def spread(spectra, at, weights, column):
        for y in range(SIDE):
            values = spectra[at + y * ROW : at + y * ROW + count + PAIRS]
            factors, out = weights[y * count * POINT : (y + 1) * count * POINT], column[y * POINT : (y + 1) * POINT]
            for c in range(PAIRS):
                re, im = _ZERO, _ZERO
                for m in range(count):
                    a, b, w, w_im = values[m], values[m + PAIRS], factors[m * POINT + c], factors[m * POINT + c + PAIRS]
                    re += a * w + b * w_im
                    im += a * w_im - b * w
                out[c], out[c + PAIRS] = re, im

    return spread


_spread_1, _spread_2, _spread_3, _spread_4, _spread_6 = map(_spread_of, (1, 2, 3, 4, 6))


@inlined
def _spread(spectra, at, weights, column, count):
    """Write the sum over `count` maps of conj(spectrum) * weight to a column; the count is 1, 2, 3, 4 or 6.

    No other counts occur in blocks of one or two channels.
    """
    if count == 1:
        _spread_1(spectra, at, weights, column)
    elif count == 2:
        _spread_2(spectra, at, weights, column)
    elif count == 3:
        _spread_3(spectra, at, weights, column)
    elif count == 4:
        _spread_4(spectra, at, weights, column)
    else:
        _spread_6(spectra, at, weights, column)


@expanded
def _up(spectra, weights, count, tiles, line, column, rows):
    """Convolve `count` maps to 64 channels, but transform only the columns back.

    The result, INNER rows of each tile, is still in the frequency domain horizontally.
    """
    for x in range(SIDE):
        factors = weights[x * LINE * count : (x + 1) * LINE * count]
        for t in range(tiles):
            _spread(spectra, x * POINT + t * count, factors, column, count)
            fours_of_row(column, START, line, ALL)
            eights_to_cut_column(line, rows, t * _ROWS + x * POINT, ALL)


@inlined
def _collect(point, weights, out, maps):
    """At one frequency, write for each map the conjugate of the sum over channels of code * weight."""
    for m in range(maps):
        w = weights[m * POINT : (m + 1) * POINT]
        re, im = _ZERO, _ZERO
        for c in range(PAIRS):
            re += point[c] * w[c] - point[c + PAIRS] * w[c + PAIRS]
            im += point[c] * w[c + PAIRS] + point[c + PAIRS] * w[c]
        out[m], out[m + PAIRS] = re, -im


@inlined
def _down(columns, x, weights, tiles, spectra):
    """For each tile, compute one column of the spectra (conjugated) of the maps that are computed from the code."""
    count = weights.size // (SIDE * LINE)
    for t in range(tiles):
        for y in range(SIDE):
            point = columns[t * LINE + y * POINT : t * LINE + (y + 1) * POINT]
            factors = weights[(x * SIDE + y) * count * POINT :]
            _collect(point, factors, spectra[y * ROW + x * POINT + t * count :], count)


@expanded
def _columns_of(rows, x, tiles, line, columns):
    """For each tile, transform one column of the code, whose rows are already transformed."""
    for t in range(tiles):
        fours_of_padded_column(rows, t * _ROWS + x * POINT, line, ALL)
        eights_to_row(line, columns, t * LINE, ALL)


@expanded
def _maps_of(spectra, line, results, tiles):
    """Transform spectra of maps back and write them to `results`, (N, tiles down, tiles across, 32, 32, maps).

    Only rows are transformed; the caller has transformed the columns.
    """
    count = results.shape[5]
    transform_rows(spectra, line, tiles.shape[0] * count)
    for t in range(tiles.shape[0]):
        result = results[tiles[t, 0], tiles[t, 1], tiles[t, 2]]
        for y in range(SIDE):
            for x in range(SIDE):
                for m in range(count):
                    result[y, x, m] = spectra[y * ROW + x * POINT + t * count + m]


@inlined
def _of_tiles(spectra, at, count):
    """Return the value of a map at one frequency in each of GROUP tiles."""
    return spectra[at], spectra[at + count], spectra[at + 2 * count], spectra[at + 3 * count]


@inlined
def _times_conjugate(columns, at, a, b):
    """Return the real and the imaginary part of a code's value times a - ib."""
    z, z_im = columns[at], columns[at + PAIRS]
    return z * a + z_im * b, z_im * a - z * b


@inlined
def _correlate(columns, x, spectra, count, sums):
    """Add the codes' spectra times the conjugate of the maps' spectra to `sums`, for a column of GROUP tiles."""
    for y in range(SIDE):
        for m in range(count):
            at, start = y * ROW + x * POINT + m, ((x * SIDE + y) * count + m) * POINT
            a0, a1, a2, a3 = _of_tiles(spectra, at, count)
            b0, b1, b2, b3 = _of_tiles(spectra, at + PAIRS, count)
            s = sums[start : start + POINT]
            for c in range(PAIRS):
                at = y * POINT + c
                re0, im0 = _times_conjugate(columns, at, a0, b0)
                re1, im1 = _times_conjugate(columns, at + LINE, a1, b1)
                re2, im2 = _times_conjugate(columns, at + 2 * LINE, a2, b2)
                re3, im3 = _times_conjugate(columns, at + 3 * LINE, a3, b3)
                s[c] += re0 + re1 + re2 + re3
                s[c + PAIRS] += im0 + im1 + im2 + im3


# --- Steps of a block ----------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Spectra of a step's convolutions from maps to the code and back, or sums for the gradients of their weights.

    Each is (32 * 32 * maps * 64,); sums have one row for each portion of the tiles.
    """

    up: np.ndarray
    down: np.ndarray


class Neighbours(NamedTuple):
    """Arrays (N, H, W * 64) of the steps one and two away, and the factors with which they are added.

    In the forward pass, these are the codes of steps k - 1 and k - 2; in the backward pass, the gradients of v of steps
    k + 1 and k + 2. If a factor is 0, its array is not read.
    """

    near: np.ndarray
    far: np.ndarray
    near_factor: np.float32
    far_factor: np.float32


class Forward(NamedTuple):
    """Inputs and results of a forward step: `maps`, `theta` and `soft` as in `step`; v and codes, (N, H, W * 64)."""

    maps: np.ndarray
    before: np.ndarray
    before_last: np.ndarray
    theta: np.float32
    soft: bool
    v: np.ndarray
    code: np.ndarray


class Scratch(NamedTuple):
    """Temporary arrays of a kernel: one or several for spectra of maps; the buffer `line`; code rows and columns."""

    spectra: tuple[np.ndarray, ...]
    line: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def scratch_sizes(spectra: int) -> list[int]:
    """Return the sizes of the arrays of `Scratch`; `spectra` is the number of arrays for spectra."""
    return [SIDE * ROW] * spectra + [LINE, GROUP * _ROWS, GROUP * LINE]


def _each_row(fill: Callable) -> Callable:
    """Return a function that, for each row in a group of tiles, calls `fill` and then transforms the row.

    fill: writes the values of a code to the beginning of the row. Its arguments are: the row to fill; the place of
        its values in the array (N, H, W * 64), as index of the image, index of the row and span; the buffer `line`; and
        the further arguments of the returned function.
    """

    @inlined
    def loop(rows, tiles, height, width, line, *given):
        for t in range(tiles.shape[0]):
            n, top, left = tiles[t, 0], INNER * tiles[t, 1], INNER * tiles[t, 2]
            across = min(INNER, width - left)
            span = slice(left * POINT, (left + across) * POINT)
            for y in range(INNER):
                row = rows[t * _ROWS + y * ROW : t * _ROWS + y * ROW + LINE]
                if top + y >= height:
                    row[:] = _ZERO
                    continue
                fill(row, n, top + y, span, line, *given)
                row[across * POINT : INNER * POINT] = _ZERO
                fours_of_padded_row(row, START, line, ALL)
                eights_to_row(line, row, START, ALL)

    return loop


@expanded
def _convolved(row, n, y, span, line, neighbours):
    """Finish the transform of a row from `_up`, add the neighbouring steps' arrays, and return the values."""
    fours_of_row(row, START, line, ALL)
    eights_to_cut_row(line, row, START, ALL)
    values = row[: span.stop - span.start]
    _add(values, neighbours.near_factor, neighbours.near[n, y, span])
    _add(values, neighbours.far_factor, neighbours.far[n, y, span])
    return values


@inlined
def _make_code(row, n, y, span, line, neighbours, theta, soft, v_out, code):
    v = _convolved(row, n, y, span, line, neighbours)
    _drop_noise(v)
    if v_out.size:
        _copy(v, v_out[n, y, span])
    if soft:
        _activate_soft(v, theta, code[n, y, span])
    else:
        _activate(v, theta, code[n, y, span])


@inlined
def _make_gradient(row, n, y, span, line, neighbours, forward, of_v, sums):
    g = _convolved(row, n, y, span, line, neighbours)
    before, before_last = forward.before[n, y, span], forward.before_last[n, y, span]
    if forward.soft:
        _activate_soft_backward(g, forward.v[n, y, span], forward.theta, before, before_last, of_v[n, y, span], sums)
    else:
        _activate_backward(g, forward.v[n, y, span], forward.theta, before, before_last, of_v[n, y, span], sums)


@inlined
def _copy_code(row, n, y, span, line, code):
    _copy(code[n, y, span], row[: span.stop - span.start])


_make_codes, _make_gradients, _copy_codes = _each_row(_make_code), _each_row(_make_gradient), _each_row(_copy_code)


@kernel
def step(maps, neighbours, theta, soft, v_out, code, weights, tiles, results, scratch):
    """Compute a step for a chunk of tiles: the values before the threshold, the code, and the maps computed from it.

    v = conv(maps; up) + the neighbours times their factors; u = T(v; theta); results = conv(u; down) for each tile.

    Args:
        maps: the maps that the step reads, (N, rows, columns, channels), with a margin and padded to whole tiles.
        neighbours: the codes of the two preceding steps, `Neighbours`.
        theta: the threshold of this step.
        soft: whether T is LCSC's soft threshold instead of LZSC's.
        v_out: receives v, (N, H, W * 64); empty if v is not needed.
        code: receives u, (N, H, W * 64); may be the array of a neighbour.
        weights: `Weights`.
        tiles: (tiles, 3): image, row and column of each tile.
        results: (N, tiles down, tiles across, 32, 32, maps); receives the maps computed from the inner part of each
            tile, which extend HALF pixels beyond it.
        scratch: `Scratch` with one array for spectra.
    """
    (spectra,), line, rows, columns = scratch
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], GROUP):
        group = tiles[start : start + GROUP]
        _spectra_of(maps, group, spectra, line)
        _up(spectra, weights.up, maps.shape[3], group.shape[0], line, columns, rows)
        _make_codes(rows, group, height, width, line, neighbours, theta, soft, v_out, code)
        spectra[:] = _ZERO
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _down(columns, x, weights.down, group.shape[0], spectra)
            transform_column(spectra, x, line, group.shape[0] * results.shape[5])
        _maps_of(spectra, line, results, group)


@kernel
def step_backward(of_maps_out, neighbours, forward, of_v, weights, tiles, results, sums, scratch):
    """Compute the gradients of a step for a chunk of tiles: of v, of the maps read, of weights and of scalars.

    Args:
        of_maps_out: the gradient of the maps computed from u, in the form of `maps` in `step`.
        neighbours: the gradients of v of the two following steps, `Neighbours`.
        forward: inputs and results of the forward step, `Forward`.
        of_v: receives the gradient of v, (N, H, W * 64); may be the array of a neighbour.
        weights: `Weights` of the mirrored convolutions.
        tiles: as in `step`.
        results: in the form of `results` in `step`; receives the contributions to the gradient of `maps`; may have zero
            maps.
        sums: `Weights`; receives the sums that `fusion.fnet.cpu.backward.weights_of` transforms to gradients.
        scratch: `Scratch` with three arrays for spectra.

    Returns:
        The gradients of theta and of the factors with which the two preceding codes (`forward.before` and
        `forward.before_last`) were added to v in the forward step, summed over the chunk.
    """
    (spectra, of_maps, of_images), line, rows, columns = scratch
    maps, code, downs = forward.maps, forward.code, weights.down
    sums.up[:] = _ZERO
    sums.down[:] = _ZERO
    columns[:] = _ZERO  # `_correlate` sums GROUP tiles, but the last group may have fewer
    scalars = np.zeros((3, INNER * POINT), np.float32)
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], GROUP):
        group = tiles[start : start + GROUP]
        _spectra_of(of_maps_out, group, spectra, line)
        _up(spectra, weights.up, of_maps_out.shape[3], group.shape[0], line, columns, rows)
        _make_gradients(rows, group, height, width, line, neighbours, forward, of_v, scalars)
        _spectra_of(maps, group, of_maps, line)
        of_images[:] = _ZERO
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _correlate(columns, x, of_maps, maps.shape[3], sums.up)
            if downs.size:
                _down(columns, x, downs, group.shape[0], of_images)
                transform_column(of_images, x, line, group.shape[0] * results.shape[5])
        if downs.size:
            _maps_of(of_images, line, results, group)
        _copy_codes(rows, group, height, width, line, code)
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _correlate(columns, x, spectra, of_maps_out.shape[3], sums.down)
    return _sums(scalars)


# --- Weights ---------------------------------------------------------------------------------------------------------

_SCALE = np.float32(SIDE**-2)  # the transforms are not normalised; the spectra of weights include this factor


@inlined
def _weights_scratch():
    """Return temporary arrays for a tile, the buffer `line` and a column."""
    return np.empty(SIDE * ROW, np.float32), np.empty(LINE, np.float32), np.empty(LINE, np.float32)


@kernel
def to_spectra(weights, spectra):
    """Transform weights, (maps, 9, 9, 64), to spectra, (32 * 32 * maps * 64,)."""
    maps = weights.shape[0]
    tile, line, column = _weights_scratch()
    tile[:] = _ZERO
    for m in range(maps):
        for y in range(KERNEL):
            row = tile[y * ROW : y * ROW + LINE]
            row[KERNEL * POINT :] = _ZERO
            for x in range(KERNEL):
                values, out = weights[m, y, x], row[x * POINT : (x + 1) * POINT]
                for c in range(POINT):
                    out[c] = _SCALE * values[c]
            fours_of_row(row, START, line, ALL)
            eights_to_row(line, row, START, ALL)
        for x in range(SIDE):
            fours_of_column(tile, x * POINT, line, ALL)
            eights_to_row(line, column, START, ALL)
            for y in range(SIDE):
                start = ((x * SIDE + y) * maps + m) * POINT
                _copy(column[y * POINT : (y + 1) * POINT], spectra[start : start + POINT])


@kernel
def from_spectra(sums, weights):
    """Add up the sums of all portions of the tiles and transform them to weights.

    The sums are (portions, 32 * 32 * maps * 64), the weights (maps, 9, 9, 64). The total of the sums is the conjugate
    of the weights' spectrum, so a forward transform takes it back.
    """
    maps = weights.shape[0]
    tile, line, column = _weights_scratch()
    for m in range(maps):
        for x in range(SIDE):
            for y in range(SIDE):
                start = ((x * SIDE + y) * maps + m) * POINT
                total = tile[y * ROW + x * POINT : y * ROW + (x + 1) * POINT]
                total[:] = _ZERO
                for portion in range(sums.shape[0]):
                    terms = sums[portion, start : start + POINT]
                    for c in range(POINT):
                        total[c] += _SCALE * terms[c]
        transform_rows(tile, line, PAIRS)
        for x in range(KERNEL):
            fours_of_column(tile, x * POINT, line, ALL)
            eights_to_row(line, column, START, ALL)
            for y in range(KERNEL):
                _copy(column[y * POINT : (y + 1) * POINT], weights[m, y, x])


# --- Maps from tiles -----------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """Channels `first` to `end` of `maps`, (N, rows, columns, channels), without `margin` pixels at the edges.

    This is not a view of the array, because numba would compile the kernel again for every memory layout.
    """

    maps: np.ndarray
    margin: int
    first: int
    end: int


@inlined
def _put(row, start, target, n, y):
    """Copy the target's channels from `row`, (width, maps), starting at channel `start`, to row y of the target."""
    out = target.maps[n, target.margin + y]
    for x in range(row.shape[0]):
        for j in range(target.end - target.first):
            out[target.margin + x, target.first + j] = row[x, start + j]


@kernel
def assemble(results, n, strip, size, first, second, third):
    """Add up the overlapping results of tiles in one strip of INNER rows of an image's maps.

    The strip begins at row INNER * strip - HALF.

    Args:
        results: as written by `step`.
        n: index of the image.
        strip: index of the strip of rows.
        size: height and width of the image.
        first, second, third: `Target`; they receive the channels of the maps in this order; each may have no channels.
    """
    down, across, maps = results.shape[1], results.shape[2], results.shape[5]
    height, width = size
    sums = np.empty((across * INNER + 2 * HALF) * maps, np.float32)
    for y in range(max(0, INNER * strip - HALF), min(height, INNER * (strip + 1) - HALF)):
        sums[:] = _ZERO
        for tile in range(max(0, strip - 1), min(down, strip + 1)):
            inside = y + HALF - INNER * tile
            if inside < SIDE:
                for x in range(across):
                    total = sums[x * INNER * maps : (x * INNER + SIDE) * maps]
                    terms = results[n, tile, x, inside].reshape(-1)
                    for i in range(terms.size):
                        total[i] += terms[i]
        row = sums[HALF * maps : (HALF + width) * maps].reshape(width, maps)
        start = 0
        for target in (first, second, third):
            _put(row, start, target, n, y)
            start += target.end - target.first
