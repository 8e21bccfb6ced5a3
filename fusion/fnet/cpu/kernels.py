"""What a block's step does to tiles of a picture on a CPU, compiled; see `fusion.fnet.cpu.forward`.

Arrays are float32. A pass takes a run of tiles, on one thread without the interpreter's lock, TOGETHER at a time: as
many share the weights that are read, and what they need at once fits a core's second cache. Loops read rows as slices,
so that the compiler does several values at once. What they work in is given, `Scratch`: memory got anew in every call
would be cleared by the system each time. Arguments that belong together come as named tuples.

Spectra of maps (few channels, of TOGETHER tiles) are a tile of `fusion.fnet.cpu.fourier`, in which channel m of tile t
is number t channels + m, its imaginary part 0 before the transform. Weights and their gradients' sums are flat
(32, 32, maps, 64): frequency across, frequency down, map, real and imaginary parts.
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
    fours_of_column,
    fours_of_padded_column,
    fours_of_padded_row,
    fours_of_row,
    glue,
    part,
    transform_column,
    transform_rows,
)
from fusion.fnet.lzsc import ALPHA, GAMMA, HALF, KERNEL
from pipeline.compiled import announce, compiled
from pipeline.compiled import part as part_in_order

kernel = partial(compiled, options=ANY_ORDER)
announce(__name__, "FNet's kernels", 20)

KEPT = SIDE - 2 * HALF  # of a tile's side, what no transform's wrapping round reaches
TOGETHER = 4
_ROWS = KEPT * ROW  # of a tile, floats
_ALPHA, _GAMMA, _ZERO = np.float32(ALPHA), np.float32(GAMMA), np.float32(0)
# Where a convolution of zeros gives 0 a transform gives some 1e-8, and the threshold jumps at 0: that is taken for 0.
# A larger bound changes images: with 1e-6 four times as many pixels of TNO pairs differ by a grey level.
_NOISE = np.float32(3e-8)

# --- The threshold -------------------------------------------------------------------------------------------------

_LOG2_E = np.float32(math.log2(math.e))
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that its products with small whole numbers are exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
# e^t - 1 - t over t^2 on abs(t) <= ln(2) / 2.
_FIT = np.polynomial.Chebyshev.interpolate(
    lambda t: np.where(abs(t) < 1e-4, 0.5 + t / 6, (np.expm1(t) - t) / np.where(t == 0, 1, t) ** 2), 5, [-0.35, 0.35]
)
_E0, _E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in _FIT.convert(kind=np.polynomial.Polynomial).coef)


@part_in_order
def _gate(magnitude, theta):
    """Return 1 / (1 + e^{-gamma (magnitude - theta)}), exact to float32's rounding."""
    # Beyond 60 the gate is 0 or 1 to float32, and larger exponents would slow the arithmetic by denormal numbers.
    t = min(max(_GAMMA * (theta - magnitude), np.float32(-60)), np.float32(60))
    whole = np.floor(t * _LOG2_E + np.float32(0.5))
    t = t - whole * _LN2_HIGH
    t = t - whole * _LN2_LOW
    p = ((((_E5 * t + _E4) * t + _E3) * t + _E2) * t + _E1) * t + _E0
    power = np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(1) / (np.float32(1) + power * (p * t * t + t + np.float32(1)))


@part_in_order
def _sign(value):
    return np.float32(value > 0) - np.float32(value < 0)


@part_in_order
def _step_gate(magnitude, theta):
    """Return 0 up to theta, else 1; NaN passes."""
    return np.float32(not magnitude <= theta)


def _threshold_of(alpha: np.float32, gate: Callable) -> tuple[Callable, Callable]:
    """Return the functions that apply T(v; theta) = sign(v) (|v| - alpha theta) gate(|v|, theta), and its gradient."""

    @part_in_order
    def activate(v, theta, code):
        """Write u = T(v; theta) to the code and in the place of v, rows of it."""
        for x in range(v.size):
            magnitude = abs(v[x])
            u = (v[x] - alpha * theta * _sign(v[x])) * gate(magnitude, theta)
            code[x] = u
            v[x] = u

    @part_in_order
    def activate_backward(g, v, theta, before, before_last, of_v, sums):
        """Write the gradient of v, from that of u = T(v; theta), to `of_v` and in the place of g, rows of it.

        `sums` (3, values) takes, value by value, the gradients of theta and of the factors of `before` and
        `before_last` in v.
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


@part
def _add(values, factor, others):
    if factor != 0:
        for x in range(values.size):
            values[x] += factor * others[x]


@part
def _copy(values, out):
    # Assigning a slice would compile the message for sizes that differ, too, and that takes as long as a transform.
    for x in range(out.size):
        out[x] = values[x]


@part
def _drop_noise(values):
    for x in range(values.size):
        values[x] = _ZERO if abs(values[x]) <= _NOISE else values[x]


@part_in_order
def _sums(rows):
    """Return the sum of each row."""
    sums = np.zeros(rows.shape[0], np.float32)
    for i in range(rows.shape[0]):
        for x in range(rows.shape[1]):
            sums[i] += rows[i, x]
    return sums


# --- Between maps and the spectra of codes -------------------------------------------------------------------------


@glue
def _spectra_of(maps, tiles, spectra, line):
    """Transform maps, (N, rows, columns, channels), where the tiles (picture, down, across) read them."""
    spectra[:] = _ZERO
    channels = maps.shape[3]
    for t in range(tiles.shape[0]):
        n, top, left = tiles[t, 0], KEPT * tiles[t, 1], KEPT * tiles[t, 2]
        for y in range(SIDE):
            for x in range(SIDE):
                for m in range(channels):
                    spectra[y * ROW + x * POINT + t * channels + m] = maps[n, top + y, left + x, m]
    transform_rows(spectra, line, tiles.shape[0] * channels)
    for x in range(SIDE):
        transform_column(spectra, x, line, tiles.shape[0] * channels)


def _spread_of(count: int) -> Callable:
    """Return the function that writes the sum over `count` maps of conj(spectrum) weight to a column.

    A number that is known when compiled unrolls the loop over maps, so that sums stay in registers.
    """

    @part
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


@part
def _spread(spectra, at, weights, column, count):
    """Do so for a step's maps, or what its code gives, of a block of one channel or of two: five are never."""
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


@glue
def _up(spectra, weights, count, tiles, line, column, rows):
    """Convolve `count` maps to 64 channels: tiles whose rows are still to be transformed, KEPT rows of each."""
    for x in range(SIDE):
        factors = weights[x * LINE * count : (x + 1) * LINE * count]
        for t in range(tiles):
            _spread(spectra, x * POINT + t * count, factors, column, count)
            fours_of_row(column, START, line, ALL)
            eights_to_cut_column(line, rows, t * _ROWS + x * POINT, ALL)


@part
def _collect(point, weights, out, maps):
    """Write conj(sum over channels of the code times weight) to each of so many maps, of one frequency."""
    for m in range(maps):
        w = weights[m * POINT : (m + 1) * POINT]
        re, im = _ZERO, _ZERO
        for c in range(PAIRS):
            re += point[c] * w[c] - point[c + PAIRS] * w[c + PAIRS]
            im += point[c] * w[c + PAIRS] + point[c + PAIRS] * w[c]
        out[m], out[m + PAIRS] = re, -im


@part
def _down(columns, x, weights, tiles, spectra):
    """Multiply a column of the codes' spectra, of each tile, to that of their maps' spectra."""
    count = weights.size // (SIDE * LINE)
    for t in range(tiles):
        for y in range(SIDE):
            point = columns[t * LINE + y * POINT : t * LINE + (y + 1) * POINT]
            factors = weights[(x * SIDE + y) * count * POINT :]
            _collect(point, factors, spectra[y * ROW + x * POINT + t * count :], count)


@glue
def _columns_of(rows, x, tiles, line, columns):
    """Transform a column of codes whose rows are transformed, of each tile."""
    for t in range(tiles):
        fours_of_padded_column(rows, t * _ROWS + x * POINT, line, ALL)
        eights_to_row(line, columns, t * LINE, ALL)


@glue
def _maps_of(spectra, line, results, tiles):
    """Transform the spectra of maps back, but for their columns; results (N, down, across, 32, 32, maps) take them."""
    count = results.shape[5]
    transform_rows(spectra, line, tiles.shape[0] * count)
    for t in range(tiles.shape[0]):
        result = results[tiles[t, 0], tiles[t, 1], tiles[t, 2]]
        for y in range(SIDE):
            for x in range(SIDE):
                for m in range(count):
                    result[y, x, m] = spectra[y * ROW + x * POINT + t * count + m]


@part
def _of_tiles(spectra, at, count):
    """Return one value of a map in each of TOGETHER tiles."""
    return spectra[at], spectra[at + count], spectra[at + 2 * count], spectra[at + 3 * count]


@part
def _times_conjugate(columns, at, a, b):
    """Return a code's value times a - ib."""
    z, z_im = columns[at], columns[at + PAIRS]
    return z * a + z_im * b, z_im * a - z * b


@part
def _correlate(columns, x, spectra, count, sums):
    """Add the codes' spectra times the conjugate of maps' to the sums, a column of TOGETHER tiles."""
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
    """Spectra of a step's convolutions to and from its code, (32 32 maps 64), or their gradients' sums."""

    up: np.ndarray
    down: np.ndarray


class Neighbours(NamedTuple):
    """Codes, or gradients of v, of the next step and the next but one, (N, H, W 64), and the factors to add them with.

    Where a factor is 0, any array will do.
    """

    near: np.ndarray
    far: np.ndarray
    near_factor: np.float32
    far_factor: np.float32


class Forward(NamedTuple):
    """What a step back needs of the step forward: `maps`, `theta`, `soft` as in `step`, v and codes (N, H, W 64)."""

    maps: np.ndarray
    before: np.ndarray
    before_last: np.ndarray
    theta: np.float32
    soft: bool
    v: np.ndarray
    code: np.ndarray


class Scratch(NamedTuple):
    """What a pass works in: spectra of maps, one or several; a line; rows and columns of codes."""

    spectra: tuple[np.ndarray, ...]
    line: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def scratch_sizes(spectra: int) -> list[int]:
    """Return how many values the arrays of `Scratch` hold, with spectra so many."""
    return [SIDE * ROW] * spectra + [LINE, TOGETHER * _ROWS, TOGETHER * LINE]


def _each_row(fill: Callable) -> Callable:
    """Return the loop over the rows of a group of tiles that has `fill` make each row of a code, and transforms it.

    fill: takes the row as it is; its picture, place down and span of values across in (N, H, W 64); a line to work in;
        and the loop's further arguments. Leaves the values in the row, as many as the span has.
    """

    @part
    def loop(rows, tiles, height, width, line, *given):
        for t in range(tiles.shape[0]):
            n, top, left = tiles[t, 0], KEPT * tiles[t, 1], KEPT * tiles[t, 2]
            across = min(KEPT, width - left)
            span = slice(left * POINT, (left + across) * POINT)
            for y in range(KEPT):
                row = rows[t * _ROWS + y * ROW : t * _ROWS + y * ROW + LINE]
                if top + y >= height:
                    row[:] = _ZERO
                    continue
                fill(row, n, top + y, span, line, *given)
                row[across * POINT : KEPT * POINT] = _ZERO
                fours_of_padded_row(row, START, line, ALL)
                eights_to_row(line, row, START, ALL)

    return loop


@glue
def _convolved(row, n, y, span, line, neighbours):
    """End the transform of a row that `_up` began, add what neighbouring steps do, and return its values."""
    fours_of_row(row, START, line, ALL)
    eights_to_cut_row(line, row, START, ALL)
    values = row[: span.stop - span.start]
    _add(values, neighbours.near_factor, neighbours.near[n, y, span])
    _add(values, neighbours.far_factor, neighbours.far[n, y, span])
    return values


@part
def _make_code(row, n, y, span, line, neighbours, theta, soft, kept, code):
    v = _convolved(row, n, y, span, line, neighbours)
    _drop_noise(v)
    if kept.size:
        _copy(v, kept[n, y, span])
    if soft:
        _activate_soft(v, theta, code[n, y, span])
    else:
        _activate(v, theta, code[n, y, span])


@part
def _make_gradient(row, n, y, span, line, neighbours, forward, of_v, sums):
    g = _convolved(row, n, y, span, line, neighbours)
    before, before_last = forward.before[n, y, span], forward.before_last[n, y, span]
    if forward.soft:
        _activate_soft_backward(g, forward.v[n, y, span], forward.theta, before, before_last, of_v[n, y, span], sums)
    else:
        _activate_backward(g, forward.v[n, y, span], forward.theta, before, before_last, of_v[n, y, span], sums)


@part
def _copy_code(row, n, y, span, line, code):
    _copy(code[n, y, span], row[: span.stop - span.start])


_make_codes, _make_gradients, _copy_codes = _each_row(_make_code), _each_row(_make_gradient), _each_row(_copy_code)


@kernel
def step(maps, neighbours, theta, soft, kept, code, weights, tiles, results, scratch):
    """Take a step for a run of tiles: u = T(v; theta), v = up(maps) + what neighbours add, and down(u).

    Args:
        maps: (N, rows, columns, channels), with margins and filled up to whole tiles.
        neighbours: the codes of the two steps before, `Neighbours`.
        soft: T is LCSC's soft threshold instead of LZSC's.
        kept: takes v, (N, H, W 64), or is empty.
        code: takes u, (N, H, W 64), possibly in the place of a code before.
        weights: `Weights`.
        tiles: (tiles, 3), picture, down, across.
        results: (N, down, across, 32, 32, maps), takes what each tile gives its surroundings, HALF pixels around it.
        scratch: `Scratch` with one spectrum.
    """
    (spectra,), line, rows, columns = scratch
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], TOGETHER):
        group = tiles[start : start + TOGETHER]
        _spectra_of(maps, group, spectra, line)
        _up(spectra, weights.up, maps.shape[3], group.shape[0], line, columns, rows)
        _make_codes(rows, group, height, width, line, neighbours, theta, soft, kept, code)
        spectra[:] = _ZERO
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _down(columns, x, weights.down, group.shape[0], spectra)
            transform_column(spectra, x, line, group.shape[0] * results.shape[5])
        _maps_of(spectra, line, results, group)


@kernel
def step_backward(of_readers, neighbours, forward, of_v, weights, tiles, results, sums, scratch):
    """Take a step back for a run of tiles: the gradients of v, of the maps read, of weights and of scalars.

    Args:
        of_readers: the gradient of what the readers of u make of it, as `maps` in `step`.
        neighbours: the gradients of v of the two steps after, `Neighbours`.
        forward: of the step forward, `Forward`.
        of_v: takes the gradient of v, (N, H, W 64), possibly in the place of a neighbour.
        weights: of the mirrored convolutions, `Weights`.
        tiles, results: as in `step`; results are part of the gradient of `maps`, possibly of no map.
        sums: `Weights`, takes what `fusion.fnet.cpu.backward.weights_of` wants.
        scratch: `Scratch` with three spectra.

    Returns:
        The sums for three gradients: theta's, and those of the factors of `before` and `before_last` in v.
    """
    (spectra, of_maps, of_images), line, rows, columns = scratch
    maps, code, downs = forward.maps, forward.code, weights.down
    sums.up[:] = _ZERO
    sums.down[:] = _ZERO
    columns[:] = _ZERO  # the last tiles may be fewer than are summed
    scalars = np.zeros((3, KEPT * POINT), np.float32)
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], TOGETHER):
        group = tiles[start : start + TOGETHER]
        _spectra_of(of_readers, group, spectra, line)
        _up(spectra, weights.up, of_readers.shape[3], group.shape[0], line, columns, rows)
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
            _correlate(columns, x, spectra, of_readers.shape[3], sums.down)
    return _sums(scalars)


# --- Weights ---------------------------------------------------------------------------------------------------------

_SCALE = np.float32(SIDE**-2)  # there and back is the identity by the scales of weights alone


@part
def _weights_scratch():
    """Return memory for a tile, a line and a column."""
    return np.empty(SIDE * ROW, np.float32), np.empty(LINE, np.float32), np.empty(LINE, np.float32)


@kernel
def to_spectra(weights, spectra):
    """Transform weights, (maps, 9, 9, 64), to spectra, (32 32 maps 64)."""
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
    """Sum spectra over shares, (shares, 32 32 maps 64), and transform them to weights, (maps, 9, 9, 64)."""
    maps = weights.shape[0]
    tile, line, column = _weights_scratch()
    for m in range(maps):
        for x in range(SIDE):
            for y in range(SIDE):
                start = ((x * SIDE + y) * maps + m) * POINT
                total = tile[y * ROW + x * POINT : y * ROW + (x + 1) * POINT]
                total[:] = _ZERO
                for share in range(sums.shape[0]):
                    terms = sums[share, start : start + POINT]
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
    """Where maps go: channels `first` to `end` of `maps`, (N, rows, columns, channels), `margin` pixels from its edges.

    Whole arrays, not views of them: each layout in memory would be a compilation of its own.
    """

    maps: np.ndarray
    margin: int
    first: int
    end: int


@part
def _put(row, start, target, n, y):
    """Write columns of `row`, (width, maps), to a row of a target."""
    out = target.maps[n, target.margin + y]
    for x in range(row.shape[0]):
        for j in range(target.end - target.first):
            out[target.margin + x, target.first + j] = row[x, start + j]


@kernel
def assemble(results, n, band, size, first, second, third):
    """Sum what tiles give their surroundings, where they overlap: KEPT rows of a picture's maps, from KEPT band - HALF.

    Args:
        results: of `step`.
        size: height and width of the picture.
        first, second, third: `Target`, take the maps in this order, possibly none.
    """
    down, across, maps = results.shape[1], results.shape[2], results.shape[5]
    height, width = size
    sums = np.empty((across * KEPT + 2 * HALF) * maps, np.float32)
    for y in range(max(0, KEPT * band - HALF), min(height, KEPT * (band + 1) - HALF)):
        sums[:] = _ZERO
        for tile in range(max(0, band - 1), min(down, band + 1)):
            inside = y + HALF - KEPT * tile
            if inside < SIDE:
                for x in range(across):
                    total = sums[x * KEPT * maps : (x * KEPT + SIDE) * maps]
                    terms = results[n, tile, x, inside].reshape(-1)
                    for i in range(terms.size):
                        total[i] += terms[i]
        row = sums[HALF * maps : (HALF + width) * maps].reshape(width, maps)
        start = 0
        for target in (first, second, third):
            _put(row, start, target, n, y)
            start += target.end - target.first
