"""What a block's step does to tiles of a picture on a CPU, compiled; see `fusion.fnet.cpu.forward`.

Arrays are float32. A pass takes a run of tiles, on one thread without the interpreter's lock, TOGETHER at a time: as
many share the weights that are read, and what they need at once fits a core's second cache. Loops read rows as slices,
so that the compiler does several values at once. What they work in is given, `scratch` says how much of it: memory
got anew in every call would be cleared by the system each time.

Spectra of maps (few channels, of TOGETHER tiles) are a tile of `fusion.fnet.cpu.fourier`, in which channel m of tile t
is number t channels + m, its imaginary part 0 before the transform. Weights and their gradients' sums are flat
(32, 32, maps, 64): frequency across, frequency down, map, real and imaginary parts.
"""

import math
from functools import partial

import numpy as np

from fusion.fnet.cpu.fourier import (
    ANY_ORDER,
    LINE,
    PAIRS,
    POINT,
    ROW,
    SIDE,
    eights_to_cut_column,
    eights_to_cut_row,
    eights_to_row,
    fours_of_column,
    fours_of_padded_column,
    fours_of_padded_row,
    fours_of_row,
    part,
    transform_column,
    transform_rows,
)
from fusion.fnet.lzsc import ALPHA, GAMMA, KERNEL
from pipeline.compiled import compiled
from pipeline.compiled import part as part_in_order

kernel = partial(compiled, options=ANY_ORDER)

HALF = KERNEL // 2
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
def _activate(v, theta, code):
    """Write u = T(v; theta) to the code and in the place of v, rows of it."""
    for x in range(v.size):
        magnitude = abs(v[x])
        u = (v[x] - _ALPHA * theta * _sign(v[x])) * _gate(magnitude, theta)
        code[x] = u
        v[x] = u


@part_in_order
def _activate_backward(g, v, theta, before, before_last, of_v, sums):
    """Write the gradient of v, from that of u = T(v; theta), to `of_v` and in the place of g, rows of it.

    `sums` (3, values) takes, value by value, the gradients of theta and of the factors of `before` and `before_last`
    in v.
    """
    by_theta, by_ahead, by_back = sums[0], sums[1], sums[2]
    for x in range(g.size):
        sign, magnitude = _sign(v[x]), abs(v[x])
        gate = _gate(magnitude, theta)
        slope = (magnitude - _ALPHA * theta) * _GAMMA * gate * (np.float32(1) - gate)
        by_theta[x] -= g[x] * sign * (_ALPHA * gate + slope)
        of = g[x] * sign * sign * (gate + slope)
        by_ahead[x] += of * before[x]
        by_back[x] += of * before_last[x]
        of_v[x] = of
        g[x] = of


@part
def _add(values, factor, others):
    if factor != 0:
        for x in range(values.size):
            values[x] += factor * others[x]


@part
def _drop_noise(values):
    for x in range(values.size):
        values[x] = _ZERO if abs(values[x]) <= _NOISE else values[x]


# --- Between maps and the spectra of codes -------------------------------------------------------------------------


@part
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


@part
def _spread_over(spectra, at, weights, column, maps):
    """Write the sum over maps of conj(spectrum) weight to a column; `maps` has as many elements."""
    # A length that is known when compiled unrolls the loop over maps, so that sums stay in registers.
    count = len(maps)
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


@part
def _spread(spectra, at, weights, column, count):
    if count == 1:
        _spread_over(spectra, at, weights, column, (0,))
    elif count == 2:
        _spread_over(spectra, at, weights, column, (0, 0))
    elif count == 3:
        _spread_over(spectra, at, weights, column, (0, 0, 0))
    elif count == 4:
        _spread_over(spectra, at, weights, column, (0, 0, 0, 0))
    elif count == 5:
        _spread_over(spectra, at, weights, column, (0, 0, 0, 0, 0))
    else:
        _spread_over(spectra, at, weights, column, (0, 0, 0, 0, 0, 0))


@part
def _up(spectra, weights, count, tiles, line, column, rows):
    """Convolve `count` maps to 64 channels: tiles whose rows are still to be transformed, KEPT rows of each."""
    for x in range(SIDE):
        factors = weights[x * LINE * count : (x + 1) * LINE * count]
        for t in range(tiles):
            _spread(spectra, x * POINT + t * count, factors, column, count)
            fours_of_row(column, 0, line)
            eights_to_cut_column(line, rows, t * _ROWS + x * POINT)


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


@part
def _columns_of(rows, x, tiles, line, columns):
    """Transform a column of codes whose rows are transformed, of each tile."""
    for t in range(tiles):
        fours_of_padded_column(rows, t * _ROWS + x * POINT, line)
        eights_to_row(line, columns, t * LINE)


@part
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
def _correlate(columns, x, spectra, count, sums):
    """Add the codes' spectra times the conjugate of maps' to the sums, a column of TOGETHER tiles."""
    for y in range(SIDE):
        z, z1 = columns[y * POINT : (y + 1) * POINT], columns[LINE + y * POINT : LINE + (y + 1) * POINT]
        z2 = columns[2 * LINE + y * POINT : 2 * LINE + (y + 1) * POINT]
        z3 = columns[3 * LINE + y * POINT : 3 * LINE + (y + 1) * POINT]
        for m in range(count):
            at = y * ROW + x * POINT + m
            a, b = spectra[at], spectra[at + PAIRS]
            a1, b1 = spectra[at + count], spectra[at + count + PAIRS]
            a2, b2 = spectra[at + 2 * count], spectra[at + 2 * count + PAIRS]
            a3, b3 = spectra[at + 3 * count], spectra[at + 3 * count + PAIRS]
            start = ((x * SIDE + y) * count + m) * POINT
            s = sums[start : start + POINT]
            for c in range(PAIRS):
                i = c + PAIRS
                s[c] += (
                    z[c] * a + z[i] * b + z1[c] * a1 + z1[i] * b1 + z2[c] * a2 + z2[i] * b2 + z3[c] * a3 + z3[i] * b3
                )
                s[i] += (
                    z[i] * a - z[c] * b + z1[i] * a1 - z1[c] * b1 + z2[i] * a2 - z2[c] * b2 + z3[i] * a3 - z3[c] * b3
                )


# --- Steps of a block ----------------------------------------------------------------------------------------------


@part
def _transform_code(row, width, line):
    """Transform a row of a code of which `width` pixels are in the picture."""
    row[width * POINT : KEPT * POINT] = _ZERO
    fours_of_padded_row(row, 0, line)
    eights_to_row(line, row, 0)


def scratch(spectra: int) -> list[int]:
    """Return the sizes of what a pass works in: spectra of maps, so many; a line; rows and columns of codes."""
    return [SIDE * ROW] * spectra + [LINE, TOGETHER * _ROWS, TOGETHER * LINE]


@kernel
def step(
    maps,
    ups,
    before,
    before_last,
    ahead,
    back,
    theta,
    code,
    kept,
    downs,
    tiles,
    results,
    spectra,
    line,
    rows,
    columns,
):
    """Take a step for a run of tiles: u = T(v; theta), v = up(maps) + ahead before + back before_last, and down(u).

    Args:
        maps: (N, rows, columns, channels), with margins and filled up to whole tiles.
        ups, downs: spectra of weights.
        before, before_last, code: (N, H, W 64); where a factor is 0, anything stands for the first two. The code may
            take the place of either.
        kept: takes v, or is empty.
        tiles: (tiles, 3), picture, down, across.
        results: (N, down, across, 32, 32, maps), takes what each tile gives its surroundings, HALF pixels around it.
        spectra, line, rows, columns: `scratch(1)`.
    """
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], TOGETHER):
        group = tiles[start : start + TOGETHER]
        _spectra_of(maps, group, spectra, line)
        _up(spectra, ups, maps.shape[3], group.shape[0], line, columns, rows)
        for t in range(group.shape[0]):
            n, top, left = group[t, 0], KEPT * group[t, 1], KEPT * group[t, 2]
            across = min(KEPT, width - left)
            span = slice(left * POINT, (left + across) * POINT)
            for y in range(KEPT):
                row = rows[t * _ROWS + y * ROW : t * _ROWS + y * ROW + LINE]
                if top + y >= height:
                    row[:] = _ZERO
                    continue
                fours_of_row(row, 0, line)
                eights_to_cut_row(line, row, 0)
                v = row[: across * POINT]
                _add(v, ahead, before[n, top + y, span])
                _add(v, back, before_last[n, top + y, span])
                _drop_noise(v)
                if kept.size:
                    kept[n, top + y, span] = v
                _activate(v, theta, code[n, top + y, span])
                _transform_code(row, across, line)
        spectra[:] = _ZERO
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _down(columns, x, downs, group.shape[0], spectra)
            transform_column(spectra, x, line, group.shape[0] * results.shape[5])
        _maps_of(spectra, line, results, group)


@kernel
def step_backward(
    seen,
    ups,
    after,
    after_next,
    ahead,
    back,
    v,
    theta,
    before,
    before_last,
    of_v,
    downs,
    tiles,
    results,
    code,
    maps,
    sums_up,
    sums_down,
    of_seen,
    of_maps,
    of_images,
    line,
    rows,
    columns,
):
    """Take a step back for a run of tiles: the gradient of v from that of u, up(seen) + ahead after + back after_next.

    Args:
        seen: the gradient of what the readers of u see, as `maps` in `step`.
        ups, downs: spectra of the mirrored weights.
        after, after_next, of_v: gradients of v, as the codes in `step`.
        v, before, before_last, code, maps: of the step forward.
        tiles, results: as in `step`; results are part of the gradient of `maps`, possibly of no map.
        sums_up, sums_down: (32, 32, maps, 64) flat, take what `spectral_backward.weights_of` wants.
        of_seen, of_maps, of_images, line, rows, columns: `scratch(3)`.

    Returns:
        The sums for three gradients: theta's, and those of the factors of `before` and `before_last` in v.
    """
    sums_up[:] = _ZERO
    sums_down[:] = _ZERO
    columns[:] = _ZERO  # the last tiles may be fewer than are summed
    sums = np.zeros((3, KEPT * POINT), np.float32)
    height, width = code.shape[1], code.shape[2] // POINT
    for start in range(0, tiles.shape[0], TOGETHER):
        group = tiles[start : start + TOGETHER]
        _spectra_of(seen, group, of_seen, line)
        _up(of_seen, ups, seen.shape[3], group.shape[0], line, columns, rows)
        for t in range(group.shape[0]):
            n, top, left = group[t, 0], KEPT * group[t, 1], KEPT * group[t, 2]
            across = min(KEPT, width - left)
            span = slice(left * POINT, (left + across) * POINT)
            for y in range(KEPT):
                row = rows[t * _ROWS + y * ROW : t * _ROWS + y * ROW + LINE]
                if top + y >= height:
                    row[:] = _ZERO
                    continue
                fours_of_row(row, 0, line)
                eights_to_cut_row(line, row, 0)
                g, at = row[: across * POINT], top + y
                _add(g, ahead, after[n, at, span])
                _add(g, back, after_next[n, at, span])
                _activate_backward(
                    g, v[n, at, span], theta, before[n, at, span], before_last[n, at, span], of_v[n, at, span], sums
                )
                _transform_code(row, across, line)
        _spectra_of(maps, group, of_maps, line)
        of_images[:] = _ZERO
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _correlate(columns, x, of_maps, maps.shape[3], sums_up)
            if downs.size:
                _down(columns, x, downs, group.shape[0], of_images)
                transform_column(of_images, x, line, group.shape[0] * results.shape[5])
        if downs.size:
            _maps_of(of_images, line, results, group)
        for t in range(group.shape[0]):
            n, top, left = group[t, 0], KEPT * group[t, 1], KEPT * group[t, 2]
            across = min(KEPT, width - left)
            for y in range(KEPT):
                row = rows[t * _ROWS + y * ROW : t * _ROWS + y * ROW + LINE]
                if top + y >= height:
                    row[:] = _ZERO
                    continue
                row[: across * POINT] = code[n, top + y, left * POINT : (left + across) * POINT]
                _transform_code(row, across, line)
        for x in range(SIDE):
            _columns_of(rows, x, group.shape[0], line, columns)
            _correlate(columns, x, of_seen, seen.shape[3], sums_down)
    return sums.sum(axis=1)


# --- Weights ---------------------------------------------------------------------------------------------------------

_SCALE = np.float32(SIDE**-2)  # there and back is the identity by the scales of weights alone


@kernel
def to_spectra(weights, spectra, tile, line, column):
    """Transform weights, (maps, 9, 9, 64), to spectra, (32 32 maps 64); `tile`, `line` and `column` are worked in."""
    maps = weights.shape[0]
    tile[:] = _ZERO
    for m in range(maps):
        for y in range(KERNEL):
            row = tile[y * ROW : y * ROW + LINE]
            row[KERNEL * POINT :] = _ZERO
            for x in range(KERNEL):
                values, out = weights[m, y, x], row[x * POINT : (x + 1) * POINT]
                for c in range(POINT):
                    out[c] = _SCALE * values[c]
            fours_of_row(row, 0, line)
            eights_to_row(line, row, 0)
        for x in range(SIDE):
            fours_of_column(tile, x * POINT, line)
            eights_to_row(line, column, 0)
            for y in range(SIDE):
                start = ((x * SIDE + y) * maps + m) * POINT
                spectra[start : start + POINT] = column[y * POINT : (y + 1) * POINT]


@kernel
def from_spectra(sums, weights, tile, line, column):
    """Sum spectra over shares, (shares, 32 32 maps 64), and transform them to weights, (maps, 9, 9, 64)."""
    maps = weights.shape[0]
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
            fours_of_column(tile, x * POINT, line)
            eights_to_row(line, column, 0)
            for y in range(KERNEL):
                weights[m, y, x] = column[y * POINT : (y + 1) * POINT]


# --- Maps from tiles -----------------------------------------------------------------------------------------------


@part
def _put(row, start, out):
    """Write columns of `row`, (width, maps), to `out`, (width, channels)."""
    for x in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[x, j] = row[x, start + j]


@kernel
def assemble(results, n, band, first, second, third):
    """Sum what tiles give their surroundings, where they overlap: KEPT rows of a picture's maps, from KEPT band - HALF.

    Args:
        results: of `step`.
        first, second, third: take the maps in this order, (N, H, W, channels) each, possibly none.
    """
    down, across, maps = results.shape[1], results.shape[2], results.shape[5]
    height, width = first.shape[1], first.shape[2]
    sums = np.empty((across * KEPT + 2 * HALF) * maps, np.float32)
    for y in range(max(0, KEPT * band - HALF), min(height, KEPT * (band + 1) - HALF)):
        sums[:] = _ZERO
        for tile in range(max(0, band - 1), min(down, band + 1)):
            inside = y + HALF - KEPT * tile
            if inside < SIDE:
                for x in range(across):
                    total, terms = (
                        sums[x * KEPT * maps : (x * KEPT + SIDE) * maps],
                        results[n, tile, x, inside].reshape(-1),
                    )
                    for i in range(terms.size):
                        total[i] += terms[i]
        row = sums[HALF * maps : (HALF + width) * maps].reshape(width, maps)
        _put(row, 0, first[n, y])
        _put(row, first.shape[3], second[n, y])
        _put(row, first.shape[3] + second.shape[3], third[n, y])
