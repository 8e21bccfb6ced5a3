"""The shapes of cars, buses, trucks and motorcycles, as parts with a colour and a heat, facing along +z."""

from collections.abc import Sequence

import numpy as np

from fusion.synthetic.painting import BLACK, Part
from fusion.synthetic.parts import PAINTS, Profile, Shape, face_x, face_z, limb, pick, prism, ring
from fusion.synthetic.weather import PARKED_WARMTH, RUNNING_WARMTH, Weather

GLASS, RUBBER, CHROME = (46.0, 58.0, 70.0), (22.0, 22.0, 24.0), (150.0, 152.0, 156.0)
HEADLIGHT, TAILLIGHT = (255.0, 250.0, 225.0), (255.0, 36.0, 24.0)


def car(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """Return a saloon, an estate or a small van, and its width, height and length."""
    paint, kind = pick(PAINTS, rng, 12), rng.integers(3)
    half, long, waist = rng.uniform(0.86, 0.94), rng.uniform(2.05, 2.25), (0.96, 1.02, 1.06)[kind]
    roof = (1.46, 1.6, 1.82)[kind]
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    nose = (0.3, 0.4, 0.75)[kind]  # length of the bonnet, as a share of half the car
    bonnet = long * (1 - nose)
    body = ((-long, 0.3), (long, 0.3), (long + 0.04, 0.55), (long - 0.08, 0.8), (bonnet, waist), (-long, waist - 0.04))
    if kind == 0:
        cabin = ((-long + 0.35, waist - 0.05), (bonnet + 0.05, waist - 0.05), (0.35, roof), (-1.05, roof))
    else:
        cabin = ((-long + 0.02, waist - 0.05), (bonnet + 0.05, waist - 0.05), (bonnet - 0.6, roof), (-long + 0.2, roof))
    inner = half - 0.1
    parts = _tyres((-long * 0.62, long * 0.62), half - 0.05, 0.33, wheel)
    parts += prism(body, half, paint, body_heat, heats={2: engine, 3: engine, 1: engine - 12})
    parts += [
        face_x(side, half, -long, long, 0.3, 0.42, tuple(0.5 * channel for channel in paint), body_heat)
        for side in (-1, 1)
    ]
    parts += _wheels((-long * 0.62, long * 0.62), half, 0.33, wheel)
    parts += _front(long + 0.03, half, 0.58, 0.76, weather, running, engine)
    parts += _back(long + 0.01, half, waist - 0.3, waist - 0.1, weather, running, body_heat, engine)
    parts += prism(cabin, inner, paint, body_heat)
    parts += [_glass(cabin, edge, inner, glass_heat) for edge in (1, 3)]
    pillar = 0.5 * (cabin[0][0] + cabin[1][0]) - 0.1
    for side in (-1, 1):
        parts += [
            _window(side, inner, cabin, part, glass_heat) for part in ((cabin[0][0], pillar), (pillar, cabin[1][0]))
        ]
    return [parts], (2 * half, roof, 2 * long)


def bus(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """Return a city bus with a row of large windows, and its width, height and length."""
    paint = pick(((196, 44, 36), (48, 120, 190), (58, 150, 84), (226, 178, 44), (220, 222, 220)), rng, 12)
    half, height, long = 1.25, rng.uniform(3.0, 3.3), rng.uniform(4.4, 5.4)
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    glow = (120.0, 112.0, 88.0) if weather.dark and running else BLACK  # lit from inside
    profile = ((-long, 0.35), (long, 0.35), (long, height - 0.4), (long - 0.15, height), (-long, height))
    axles = (-long * 0.55, long * 0.62)
    parts = _tyres(axles, half - 0.1, 0.48, wheel)
    parts += prism(profile, half, paint, body_heat)
    trim = (236.0, 236.0, 232.0)
    for side in (-1, 1):
        parts.append(face_x(side, half, -long, long, 0.95, 1.2, trim, body_heat))
        parts.append(face_x(side, half, -long + 0.2, long - 0.15, 1.42, height - 0.55, (30, 34, 40), glass_heat + 3))
        count = 6
        pitch = (2 * long - 0.5) / count
        for at in range(count):
            z = -long + 0.3 + at * pitch
            parts.append(face_x(side, half, z, z + pitch - 0.16, 1.5, height - 0.62, GLASS, glass_heat, glow))
        door = long - 1.5
        if side > 0:  # the doors are on the pavement's side
            for z in (door, -0.6):
                parts.append(face_x(side, half, z, z + 1.1, 0.45, height - 0.7, (64, 74, 84), glass_heat - 2, glow))
    parts += _wheels(axles, half, 0.48, wheel)
    parts.append(face_z(1, long, -half + 0.1, half - 0.1, 1.15, height - 0.7, GLASS, glass_heat, glow))
    sign = (255.0, 168.0, 40.0)
    parts.append(face_z(1, long, -0.8, 0.8, height - 0.6, height - 0.3, (40, 34, 20), body_heat))
    lit = sign if weather.dark or weather.condition == "fog" else tuple(0.4 * channel for channel in sign)
    parts.append(face_z(1, long, -0.65, 0.5, height - 0.54, height - 0.36, sign, body_heat, lit))
    parts += _front(long, half, 0.62, 0.9, weather, running, body_heat + 0.25 * (engine - body_heat))
    parts.append(face_z(-1, long, -half + 0.2, half - 0.2, 1.7, height - 0.6, GLASS, glass_heat, glow))
    parts.append(face_z(-1, long, -half + 0.2, half - 0.2, 0.6, 1.3, tuple(0.6 * c for c in paint), engine))
    parts += _back(long, half, 0.95, 1.45, weather, running, body_heat, engine)
    roof_unit = ((-1.6, height), (1.2, height), (1.0, height + 0.22), (-1.4, height + 0.22))
    parts += prism(roof_unit, 0.8, (200, 200, 198), body_heat + (12.0 if running else 0.0))
    return [parts], (2 * half, height + 0.2, 2 * long)


def truck(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """Return a truck, a cab with a tall cargo box or an open load bed, and its width, height and length."""
    paint, load = (
        pick(PAINTS, rng, 12),
        pick(((226, 226, 220), (204, 196, 168), (86, 120, 92), (150, 96, 60)), rng, 12),
    )
    half, long, roof = 1.2, rng.uniform(3.2, 3.9), rng.uniform(2.35, 2.6)
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    open_bed = rng.random() < 0.3
    top = 1.75 if open_bed else rng.uniform(3.0, 3.4)
    back = long - 1.75  # where the cab ends
    axles = (-long * 0.7, -long * 0.38, long * 0.72)
    cab = ((back, 0.45), (long, 0.45), (long, 1.35), (long - 0.3, roof), (back, roof))
    cab_parts = _tyres(axles[2:], half - 0.15, 0.46, wheel)
    cab_parts += prism(cab, half - 0.08, paint, body_heat, heats={1: engine})
    cab_parts.append(_glass(cab, 2, half - 0.08, glass_heat))
    for side in (-1, 1):
        cab_parts.append(face_x(side, half - 0.08, back + 0.45, long - 0.3, 1.4, roof - 0.2, GLASS, glass_heat))
        cab_parts.append(face_x(side, half - 0.08, back + 0.4, back + 0.44, 0.6, roof - 0.2, (40, 40, 40), body_heat))
    cab_parts += _front(long, half - 0.08, 0.58, 0.85, weather, running, engine)
    cab_parts += _wheels(axles[2:], half - 0.05, 0.46, wheel)
    bed = ((-long, 0.95), (back - 0.15, 0.95), (back - 0.15, top), (-long, top))
    bed_parts = prism(((-long, 0.6), (back, 0.6), (back, 0.95), (-long, 0.95)), half - 0.2, (46, 46, 50), body_heat)
    bed_parts += prism(bed, half, load, body_heat - 4)
    ribs = tuple(0.72 * channel for channel in load)
    for side in (-1, 1):
        for z in np.linspace(-long, back - 0.25, 6):
            bed_parts.append(face_x(side, half, z, z + 0.1, 0.95, top, ribs, body_heat - 6))
        bed_parts.append(face_x(side, half, -long, back - 0.15, 0.95, 1.08, ribs, body_heat - 6))
    for x in (-0.04, -half + 0.05, half - 0.13):
        bed_parts.append(face_z(-1, long, x, x + 0.08, 0.95, top, ribs, body_heat - 6))
    if open_bed:
        heap = [(x, top + y, z) for x, z, y in ((-0.6, -long + 0.8, 0.1), (0.5, 0.2, 0.15), (0, -1.2, 0.45))]
        bed_parts.append(limb(heap, 0.4, (126, 104, 76), body_heat - 2))
    bed_parts += _back(long, half, 0.68, 0.88, weather, running, body_heat, engine)
    bed_parts += _wheels(axles[:2], half - 0.05, 0.46, wheel)
    under = _tyres(axles[:2], half - 0.15, 0.46, wheel)
    return [under + bed_parts, cab_parts], (2 * half, top if not open_bed else roof, 2 * long)


def motorcycle(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """Return a motorcycle without its rider, and its width, height and length."""
    paint = pick(((190, 30, 30), (30, 70, 160), (40, 42, 46), (30, 120, 60), (226, 130, 30)), rng, 12)
    body_heat, _, engine, wheel = _vehicle_heat(weather, rng, running)
    shape: Shape = []
    for z in (-0.68, 0.72):
        rim = [(side * 0.06, *at) for side in (-1, 1) for at in ring(z, 0.32, 0.32)]
        group = [Part(np.array(rim), RUBBER, wheel)]
        for side in (-1, 1):
            for radius, colour, heat in ((0.23, (120, 122, 126), body_heat), (0.19, (58, 60, 64), body_heat),
                                         (0.07, CHROME, wheel)):  # fmt: skip
                rim = [(side * 0.06, *at) for at in ring(z, 0.32, radius)]
                group.append(Part(np.array(rim), colour, heat, normal=(side, 0, 0)))
        shape.append(group)
    lamp = HEADLIGHT if running and weather.condition != "day" else BLACK
    tail = TAILLIGHT if running and weather.condition != "day" else BLACK
    shape += [
        [limb([(0, 0.45, -0.05), (0, 0.42, 0.22)], (0.17, 0.15), (92, 94, 98), engine)],
        [limb([(0.14, 0.33, 0.05), (0.16, 0.4, -0.75)], (0.045, 0.06), CHROME, engine - 10)],
        [
            limb([(-0.07, 0.35, 0.72), (-0.07, 0.98, 0.46)], 0.035, CHROME, body_heat),
            limb([(0.07, 0.35, 0.72), (0.07, 0.98, 0.46)], 0.035, CHROME, body_heat),
            limb([(0, 0.66, 0.9), (0, 0.69, 0.6)], 0.07, paint, body_heat),  # mudguard
        ],
        [limb([(0, 0.78, 0.3), (0, 0.74, -0.02)], (0.16, 0.14), paint, body_heat + (10 if running else 0))],  # tank
        [limb([(0, 0.76, -0.1), (0, 0.8, -0.7)], (0.11, 0.1), (32, 30, 32), body_heat + (8 if running else 0))],
        [limb([(0, 0.68, -0.5), (0, 0.72, -0.92)], (0.1, 0.06), paint, body_heat)],  # tail
        [limb([(0, 0.76, -0.96)], (0.06,), (200, 30, 30), body_heat, tail)],
        [
            limb([(-0.36, 1.02, 0.36), (0, 0.96, 0.46), (0.36, 1.02, 0.36)], 0.03, (40, 40, 44), body_heat),
            limb([(-0.32, 1.2, 0.42)], (0.06,), (60, 62, 66), body_heat),
            limb([(0.32, 1.2, 0.42)], (0.06,), (60, 62, 66), body_heat),
        ],
        [
            limb([(0, 0.86, 0.58)], (0.14,), paint, body_heat),
            limb([(0, 0.86, 0.64)], (0.1,), (235, 235, 225), body_heat, lamp),
        ],
    ]
    return shape, (0.75, 1.25, 2.1)


def _vehicle_heat(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[float, float, float, float]:
    """Return the heat of bodywork, glass, engine and wheels."""
    road = weather.heat["road"]
    if not running:
        body = road + float(rng.choice([-1.0, 1.0])) * rng.uniform(0.5, 1.0) * PARKED_WARMTH
        return body, body - 5.0, body + 1.0, body - 3.0
    body = road + rng.uniform(*RUNNING_WARMTH)
    return body, road - rng.uniform(14.0, 26.0), weather.heat["engine"], road + rng.uniform(35.0, 55.0)


def _front(z: float, half: float, low: float, high: float, weather: Weather, running: bool, heat: float) -> list[Part]:
    """Return grille, number plate and headlights on the front face at `z`."""
    lit = HEADLIGHT if running and (weather.dark or weather.condition == "fog") else BLACK
    edge = half - 0.06
    parts = [
        face_z(1, z, -0.5 * half, 0.5 * half, low - 0.12, high, (28, 30, 32), heat + 8),
        face_z(1, z, -0.26, 0.26, low - 0.2, low - 0.08, (225, 225, 210), heat - 10),
    ]
    for side in (-1, 1):
        x = sorted((side * edge, side * 0.58 * half))
        parts.append(face_z(1, z, x[0], x[1], low, high, (238, 240, 236), heat - 6, lit))
    return parts


def _back(
    z: float, half: float, low: float, high: float, weather: Weather, running: bool, heat: float, engine: float
) -> list[Part]:
    """Return tail lights, number plate, bumper and exhaust on the rear face at `-z`."""
    lit = TAILLIGHT if running and (weather.dark or weather.condition == "fog") else BLACK
    parts = [
        face_z(-1, z, -half, half, 0.32, 0.5, (52, 54, 56), heat + (8 if running else 0)),
        face_z(-1, z, -0.26, 0.26, low, low + 0.13, (225, 225, 210), heat),
        face_z(-1, z, -0.75 * half, -0.4 * half, 0.28, 0.4, (60, 60, 62), engine if running else heat),
    ]
    for side in (-1, 1):
        x = sorted((side * (half - 0.04), side * (half - 0.3)))
        parts.append(face_z(-1, z, x[0], x[1], low, high, (190, 26, 26), heat + (5 if running else 0), lit))
    return parts


def _tyres(axles: Sequence[float], half: float, radius: float, heat: float) -> list[Part]:
    parts = []
    for z in axles:
        for side in (-1, 1):
            rim = [(side * x, *at) for x in (half, half - 0.2) for at in ring(z, radius, radius)]
            parts.append(Part(np.array(rim), RUBBER, heat - 6))
    return parts


def _wheels(axles: Sequence[float], half: float, radius: float, heat: float) -> list[Part]:
    """Return wheel arches, tyres and rims on both sides."""
    rings = ((1.18, (26, 26, 28), -20.0), (1.0, RUBBER, 0.0), (0.62, (168, 170, 174), -8.0), (0.2, (70, 72, 76), 6.0))
    return [
        Part(np.array([(side * half, *at) for at in ring(z, radius, radius * grow)]), colour, heat + extra,
             normal=(side, 0, 0))
        for z in axles for side in (-1, 1) for grow, colour, extra in rings
    ]  # fmt: skip


def _glass(profile: Profile, edge: int, half: float, heat: float) -> Part:
    """Return a pane set into the face that `prism` makes of an edge of the profile."""
    (z0, y0), (z1, y1) = profile[edge], profile[(edge + 1) % len(profile)]
    points = np.array([(-half, y0, z0), (half, y0, z0), (half, y1, z1), (-half, y1, z1)])
    points = points.mean(axis=0) + (points - points.mean(axis=0)) * np.array([0.88, 0.82, 0.82])
    return Part(points, GLASS, heat, normal=(0.0, z0 - z1, y1 - y0))


def _window(side: int, half: float, profile: Profile, span: tuple[float, float], heat: float) -> Part:
    """Return a side window over a span of a cabin's lower edge, cut off by the cabin's slanting ends."""
    (rear, low), (front, _), (front_top, high), (rear_top, _) = profile
    low, high = low + 0.1, high - 0.09
    lean = (high - low) / (profile[2][1] - profile[0][1])
    bottom = (max(span[0], rear + 0.1) + 0.06, min(span[1], front - 0.1) - 0.06)
    top = (
        max(bottom[0], rear + (rear_top - rear) * lean + 0.12),
        min(bottom[1], front + (front_top - front) * lean - 0.12),
    )
    points = [(bottom[0], low), (bottom[1], low), (top[1], high), (top[0], high)]
    return Part(np.array([(side * half, y, z) for z, y in points]), GLASS, heat, normal=(side, 0.0, 0.0))
