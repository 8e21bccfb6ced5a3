"""The street of a scene: sky, road with markings, pavements, and houses or a park on each side."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fusion.synthetic.painting import BLACK, RGB, Painter
from fusion.synthetic.weather import Weather

HALF_ROAD = 5.6  # metres from the middle line to the kerb
FAR = 400.0  # metres at which the drawn road ends
FACADES = (
    (168, 148, 126), (190, 178, 156), (150, 92, 74), (134, 140, 148), (202, 194, 182), (120, 112, 104), (176, 156, 110),
)  # fmt: skip
SHOPFRONTS = ((178, 52, 48), (46, 88, 150), (52, 120, 84), (206, 160, 60), (110, 70, 120))


@dataclass(frozen=True)
class Street:
    """Measures of a street in metres; `crossing` is the distance of a zebra crossing, None without one."""

    wall: float  # from the middle line to the house fronts
    park: tuple[bool, bool]  # whether the left and the right side have trees instead of houses
    crossing: float | None


def choose_street(rng: np.random.Generator) -> Street:
    """Draw the measures of a street."""
    park = (bool(rng.random() < 0.3), bool(rng.random() < 0.3))
    return Street(float(rng.uniform(8.8, 11.0)), park, float(rng.uniform(8.0, 15.0)) if rng.random() < 0.45 else None)


def paint_street(painter: Painter, street: Street, weather: Weather, rng: np.random.Generator) -> None:
    """Paint the background behind the objects of a scene."""
    _paint_sky(painter, weather, rng)
    _paint_skyline(painter, weather, rng)
    _paint_ground(painter, street, weather, rng)
    _paint_markings(painter, street, weather, rng)
    for side, park in zip((-1, 1), street.park, strict=True):
        if park:
            _paint_park(painter, side, street.wall, weather, rng)
        else:
            _paint_houses(painter, side, street.wall, weather, rng)


def _paint_sky(painter: Painter, weather: Weather, rng: np.random.Generator) -> None:
    rows = max(1, min(painter.height, math.ceil(painter.camera.horizon) + 8))
    size = (painter.width, rows)
    wide, tall = size[0] // 4 + 2, size[1] // 4 + 2  # drawn small and enlarged, as the sky is smooth
    down = np.linspace(0.0, 1.0, tall, dtype=np.float32)[:, None, None] ** 1.3
    top = np.array([*weather.sky_top, weather.heat["sky_top"]], np.float32)
    low = np.array([*weather.sky_low, weather.heat["sky_low"]], np.float32)
    amount = np.array([13.0, 12.0, 10.0, 5.0], np.float32)
    amount *= 0.25 if weather.dark else 0.3 if weather.condition == "fog" else 1.0
    clouds = cv2.resize(rng.standard_normal((5, 7), np.float32), (wide, tall), interpolation=cv2.INTER_CUBIC)
    sky = np.maximum(clouds, -0.3)[..., None] * amount
    sky += top + (low - top) * down
    painter.surface[:rows] = cv2.resize(cv2.convertScaleAbs(np.maximum(sky, 0.0)), size)
    if weather.dark:  # lamps do not light the sky: its colour is drawn as emitted light
        painter.light[:rows, :, :3] = painter.surface[:rows, :, :3]


def _paint_skyline(painter: Painter, weather: Weather, rng: np.random.Generator) -> None:
    """Paint distant houses and a row of trees on the horizon."""
    horizon, unit = painter.camera.horizon, painter.camera.focal / 100.0
    x = -rng.uniform(0, 20) * unit
    while x < painter.width:
        wide, tall = rng.uniform(6, 16) * unit, rng.uniform(3, 20) * unit
        grey = rng.uniform(0.42, 0.52)
        colour = tuple(130.0 * (1 - grey) + channel * grey for channel in weather.sky_low)
        if weather.dark:
            colour = (110.0, 110.0, 120.0)
        block = np.array([(x, horizon), (x, horizon - tall), (x + wide, horizon - tall), (x + wide, horizon)])
        painter.fill([block], colour, 0.5 * (weather.heat["sky_low"] + weather.heat["building"]))
        if weather.dark:
            lit = [
                np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * 0.7 * unit + corner
                for corner in rng.uniform((x, horizon - tall), (x + wide, horizon), (5, 2))
            ]
            for window in lit:
                painter.fill([window], (200, 180, 120), weather.heat["building"] - 6, (120, 100, 60))
        x += wide * rng.uniform(0.8, 1.8)
    steps = np.linspace(0, painter.width, 40)
    crowns = horizon - unit * rng.uniform(1.0, 4.5, 40)
    outline = np.stack([[0, *steps, painter.width], [horizon + 8, *crowns, horizon + 8]], axis=1)
    painter.fill([outline], (84, 102, 82), weather.heat["tree"] - 6)


def _paint_ground(painter: Painter, street: Street, weather: Weather, rng: np.random.Generator) -> None:
    heat, grey = weather.heat, rng.uniform(84, 112)
    asphalt: RGB = (grey, grey, grey + 4)
    for side, park in zip((-1, 1), street.park, strict=True):
        verge = (104, 122, 72) if park else (136, 132, 126)
        painter.fill_world(_strips([side * 6.0], [side * 200.0]), verge, heat["verge"] if park else heat["pavement"])
        stone = rng.uniform(142, 170)
        paving = (stone, stone - 4, stone - 12)
        painter.fill_world(_strips([side * HALF_ROAD], [side * (street.wall - 0.3)]), paving, heat["pavement"])
        lines = [(street.wall - 0.3 - HALF_ROAD) * share * side + HALF_ROAD * side for share in (0.33, 0.66)]
        joints = _strips([x - 0.03 for x in lines], [x + 0.03 for x in lines])
        painter.fill_world(joints, tuple(0.85 * channel for channel in paving), heat["pavement"])
        z = np.arange(3.0, 40.0, 1.5)
        flags = _flat(np.full_like(z, side * HALF_ROAD), np.full_like(z, side * (street.wall - 0.3)), z, z + 0.05)
        painter.fill_world(flags, tuple(0.85 * channel for channel in paving), heat["pavement"])
    painter.fill_world(_strips([-HALF_ROAD], [HALF_ROAD]), asphalt, heat["road"])
    if not weather.dark and weather.condition != "fog" and rng.random() < 0.6:  # the shadow of the houses on one side
        edge = -math.copysign(rng.uniform(1.0, 4.0), weather.sun[0])
        kerb = math.copysign(HALF_ROAD, weather.sun[0])
        low, high = sorted((edge if rng.random() < 0.5 else 0.6 * kerb, kerb))
        painter.fill_world(_strips([low], [high]), tuple(0.7 * c for c in asphalt), heat["road"] - 6)
    for _ in range(int(rng.integers(1, 4))):  # patches of newer asphalt, which only the visible image shows
        x, z = rng.uniform(-4.5, 3.5), rng.uniform(5, 25)
        patch = _flat(
            np.array([x]), np.array([x + rng.uniform(0.8, 2)]), np.array([z]), np.array([z + rng.uniform(1, 4)])
        )
        painter.fill_world(patch, tuple(rng.uniform(0.75, 0.88) * channel for channel in asphalt), heat["road"])
    for side in (-1, 1):  # gutter, kerb stone and its lit top edge
        x = side * HALF_ROAD
        painter.fill_world(_strips([x - 0.3 * side], [x]), tuple(0.8 * c for c in asphalt), heat["road"] - 2)
        painter.fill_world(_strips([x], [x + 0.25 * side]), (188, 186, 180), heat["pavement"] + 7)
    for _ in range(int(rng.integers(0, 3))):  # manholes, warm from the sewer
        turn = np.arange(16) * math.pi / 8
        x, z = rng.uniform(-4, 4), rng.uniform(6, 18)
        lid = np.stack([x + 0.4 * np.cos(turn), np.zeros(16), z + 0.4 * np.sin(turn)], axis=1)
        painter.fill_world(lid[None], (70, 70, 72), heat["road"] + rng.uniform(8, 30))


def _paint_markings(painter: Painter, street: Street, weather: Weather, rng: np.random.Generator) -> None:
    """Paint lane markings and a zebra crossing, which are as warm as the asphalt below."""
    white, heat = (226.0, 226.0, 220.0), weather.heat["road"]
    middle = (228.0, 186.0, 60.0) if rng.random() < 0.4 else white
    stop = street.crossing
    z = np.arange(2.0 + rng.uniform(0, 6), 90.0, 7.0)
    if rng.random() < 0.35:
        painter.fill_world(_strips([-0.22, 0.1], [-0.1, 0.22]), middle, heat)
    else:
        painter.fill_world(_flat(np.full_like(z, -0.08), np.full_like(z, 0.08), z, z + 3.0), middle, heat)
    painter.fill_world(_strips([-3.6, 3.48], [-3.48, 3.6]), white, heat)
    if stop is not None:
        x = np.arange(-HALF_ROAD + 0.5, HALF_ROAD - 0.6, 1.0)
        painter.fill_world(_strips([-3.7], [3.7], stop - 1.2, stop + 4.0), (98, 98, 102), heat)
        painter.fill_world(_flat(x, x + 0.5, np.full_like(x, stop), np.full_like(x, stop + 3.0)), white, heat)
        for side in (-1, 1):
            line = sorted((0.1 * side, 3.4 * side))
            at = stop - 1.2 if side > 0 else stop + 4.0
            painter.fill_world(_strips([line[0]], [line[1]], at, at + 0.4), white, heat)


def _paint_houses(painter: Painter, side: int, wall: float, weather: Weather, rng: np.random.Generator) -> None:
    """Paint a row of houses from far to near, with windows and shopfronts."""
    ends = [5.0]
    while ends[-1] < 85.0:
        ends.append(ends[-1] + rng.uniform(9.0, 20.0))
    for near, far in zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True):
        far -= rng.choice([0.0, 2.5])  # some houses have a gap between them
        x, floors = side * wall, int(rng.integers(2, 8))
        tall = 3.3 * floors + 0.9
        colour = np.array(FACADES[int(rng.integers(len(FACADES)))]) + rng.uniform(-10, 10)
        heat = weather.heat["building"] + rng.uniform(-12, 12)
        lit = 0.38 if side * weather.sun[0] < 0 else 0.16
        end = np.array([[(x, 0, near), (x + 14 * side, 0, near), (x + 14 * side, tall, near), (x, tall, near)]], float)
        painter.fill_world(end, tuple(0.78 * colour), heat - 4)
        front = np.array([[(x, 0, near), (x, 0, far), (x, tall, far), (x, tall, near)]], float)
        painter.fill_world(front, tuple((0.66 + lit) * colour), heat)
        band = front.copy()
        band[0, :2, 1] = tall - 0.5
        painter.fill_world(band, tuple((0.5 + lit) * colour), heat - 6)
        band[0, :, 1] = (2.9, 2.9, 3.4, 3.4)
        shop = np.array(SHOPFRONTS[int(rng.integers(len(SHOPFRONTS)))], float)
        on = weather.dark and rng.random() < 0.5
        painter.fill_world(band, tuple(shop), heat + 2, tuple(0.45 * shop) if on else BLACK)
        columns = np.arange(near + 0.9, far - 1.6, 2.7)
        levels = 3.3 * np.arange(1, floors) + 1.0
        windows = _upright(x - 0.02 * side, np.tile(columns, len(levels)), np.repeat(levels, len(columns)), 1.4, 1.7)
        shops = _upright(x - 0.02 * side, columns, np.full(len(columns), 0.5), 2.2, 2.2)
        _paint_windows(painter, np.concatenate([windows, shops]), heat, weather, rng)
        across = np.arange(0.9, 12.0, 2.7)
        gables = [
            (x + side * (at + dx), y + dy, near - 0.02)
            for at in across
            for y in levels
            for dx, dy in ((0, 0), (1.4, 0), (1.4, 1.7), (0, 1.7))
        ]
        _paint_windows(painter, np.array(gables, float).reshape(-1, 4, 3), heat, weather, rng)


def _paint_windows(
    painter: Painter, windows: np.ndarray, heat: float, weather: Weather, rng: np.random.Generator
) -> None:
    """Paint windows, which mirror the sky: dark or light in visible, cold in infrared; at night some are lit."""
    if not len(windows):
        return
    draw = rng.random(len(windows))
    lit = draw < (0.3 if weather.dark else 0.0)
    pane = heat - (9.0 if weather.dark else 13.0)
    painter.fill_world(windows[~lit & (draw < 0.8)], (66, 76, 90), pane)
    painter.fill_world(windows[draw >= 0.8], (120, 132, 146), pane + 3)
    painter.fill_world(windows[lit], (220, 190, 130), heat + 7, (176, 146, 88))


def _paint_park(painter: Painter, side: int, wall: float, weather: Weather, rng: np.random.Generator) -> None:
    """Paint a hedge and a row of trees with a common outline."""
    heat = weather.heat["tree"]
    x = wall + 1.0
    z = np.geomspace(4.0, 90.0, 60)
    for grow, colour in ((1.0, (66, 88, 52)), (0.62, (82, 106, 60))):
        top = grow * (3.6 + rng.normal(0, 0.55, 60) + 1.2 * np.sin(z / 2.1 + rng.uniform(0, 6)))
        crowns = np.stack([np.full(60, side * x), top, z], axis=1)
        ground = np.array([(side * x, 0.0, 90.0), (side * x, 0.0, 4.0)])
        painter.fill_world(np.concatenate([crowns, ground])[None], colour, heat + 4 * (1 - grow))
        x -= 0.5
    hedge = np.array(
        [[(side * wall, 0, 4), (side * wall, 0, 90), (side * wall, 0.9, 90), (side * wall, 0.9, 4)]], float
    )
    painter.fill_world(hedge, (56, 84, 46), heat + 3)


def _strips(left: list[float], right: list[float], near: float = 1.2, far: float = FAR) -> np.ndarray:
    """Return strips of the ground along the road, (N, 4, 3)."""
    count = len(left)
    return _flat(np.array(left), np.array(right), np.full(count, near), np.full(count, far))


def _flat(left: np.ndarray, right: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Return rectangles on the ground, (N, 4, 3)."""
    zero = np.zeros_like(left, dtype=float)
    corners = [(left, zero, near), (right, zero, near), (right, zero, far), (left, zero, far)]
    return np.array(corners).transpose(2, 0, 1)


def _upright(x: float, z: np.ndarray, y: np.ndarray, wide: float, tall: float) -> np.ndarray:
    """Return rectangles on a wall along the road, (N, 4, 3)."""
    wall = np.full_like(z, x)
    corners = [(wall, y, z), (wall, y, z + wide), (wall, y + tall, z + wide), (wall, y + tall, z)]
    return np.array(corners).transpose(2, 0, 1)
