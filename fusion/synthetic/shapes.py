"""The shapes of people, vehicles, lamps and clutter, as parts with a colour for each band.

A shape is a list of groups of parts, in metres, looking along +z; see `Part`. A group is convex or painted in the
order that any view from above its waist allows; the painter sorts the groups by distance.
"""

import math
from collections.abc import Sequence

import numpy as np

from fusion.synthetic.painting import BLACK, RGB, Part
from fusion.synthetic.weather import PARKED_WARMTH, RUNNING_WARMTH, Weather

Shape = list[list[Part]]
Profile = Sequence[tuple[float, float]]

PAINTS = (
    (205, 205, 208), (178, 30, 32), (36, 66, 148), (34, 36, 40), (120, 126, 132),
    (232, 230, 222), (22, 104, 84), (196, 158, 40), (92, 50, 40), (60, 112, 168),
)  # fmt: skip
CLOTHES = (
    (168, 38, 42), (36, 62, 132), (44, 46, 52), (214, 206, 190), (60, 112, 66),
    (212, 168, 44), (120, 76, 140), (88, 92, 100), (210, 110, 50), (70, 50, 38),
)  # fmt: skip
SKINS = ((226, 182, 150), (198, 148, 112), (140, 96, 68), (240, 200, 172))
GLASS, RUBBER, CHROME = (46.0, 58.0, 70.0), (22.0, 22.0, 24.0), (150.0, 152.0, 156.0)
HEADLIGHT, TAILLIGHT = (255.0, 250.0, 225.0), (255.0, 36.0, 24.0)
FRONT, REAR, UP = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)


_CIRCLE = [(math.cos(turn * math.pi / 7), math.sin(turn * math.pi / 7)) for turn in range(14)]


def person(weather: Weather, rng: np.random.Generator, riding: bool = False) -> Shape:
    """A person of about 1.75 m: walking at a random moment of the gait, standing, or sitting on a motorcycle."""
    heat = weather.heat
    shirt, trousers = (_pick(CLOTHES, rng, 16) for _ in range(2))
    skin = _pick(SKINS, rng, 10)
    hair = helmet = _pick(PAINTS, rng, 10) if riding else _pick(((30, 24, 20), (90, 62, 36), (150, 140, 130)), rng, 8)
    swing = 0.0 if rng.random() < 0.2 else rng.uniform(-0.33, 0.33)
    torso_heat, leg_heat = heat["cloth"] + rng.uniform(-4, 8), heat["cloth"] - rng.uniform(0, 8)
    face_heat = heat["skin"] - (12.0 if riding else 0.0)
    if riding:
        hip, shoulder, head = (0, 0.86, -0.28), (0, 1.36, -0.06), (0, 1.62, 0.04)
        knees, feet = [(0.24, 0.66, 0.16), (-0.24, 0.66, 0.16)], [(0.22, 0.3, -0.1), (-0.22, 0.3, -0.1)]
        elbows, hands = [(0.36, 1.12, 0.16), (-0.36, 1.12, 0.16)], [(0.33, 1.0, 0.42), (-0.33, 1.0, 0.42)]
    else:
        hip, shoulder, head = (0, 0.92, 0), (0, 1.38, 0.02), (0, 1.63, 0.04)
        knees = [(0.1, 0.5, swing * 0.7 + 0.05), (-0.1, 0.5, -swing * 0.7 + 0.05)]
        feet = [(0.11, 0.07, swing * 1.2 - 0.05), (-0.11, 0.07, -swing * 1.2 - 0.05)]
        elbows = [(0.27, 1.13, -swing * 0.6 - 0.04), (-0.27, 1.13, swing * 0.6 - 0.04)]
        hands = [(0.27, 0.9, -swing * 0.9 + 0.08), (-0.27, 0.9, swing * 0.9 + 0.08)]
    shape: Shape = []
    for side, knee, foot, elbow, hand in zip((1, -1), knees, feet, elbows, hands, strict=True):
        hip_joint, shoulder_joint = (hip[0] + 0.09 * side, hip[1], hip[2]), (0.19 * side, shoulder[1], shoulder[2])
        dim = 0.85 if side < 0 else 1.0  # one leg darker, so that two legs are seen
        leg = tuple(channel * dim for channel in trousers)
        toe = (foot[0], foot[1] - 0.02, foot[2] + 0.14)
        shape.append([_limb([hip_joint, knee], (0.1, 0.075), leg, leg_heat)])
        shape.append([
            _limb([knee, foot], (0.075, 0.055), leg, leg_heat - 3),
            _limb([foot, toe], (0.055, 0.045), (34, 30, 30), leg_heat - 12),
        ])  # fmt: skip
        sleeve = tuple(channel * (0.82 if side < 0 else 0.95) for channel in shirt)
        shape.append([
            _limb([shoulder_joint, elbow], (0.068, 0.055), sleeve, torso_heat - 2),
            _limb([elbow, hand], (0.055, 0.04), sleeve, torso_heat - 2),
            _limb([hand], (0.05,), skin, face_heat - 8),
        ])  # fmt: skip
    chest = [(-0.15, shoulder[1], shoulder[2]), (0.15, shoulder[1], shoulder[2]), (-0.1, *hip[1:]), (0.1, *hip[1:])]
    body = [_limb(chest, (0.085, 0.085, 0.1, 0.1), shirt, torso_heat)]
    if not riding and rng.random() < 0.3:  # a skirt or a long coat
        knee_line = [(-0.15, 0.62, 0.05), (0.15, 0.62, 0.05), (-0.1, 0.95, 0), (0.1, 0.95, 0)]
        body.append(_limb(knee_line, 0.08, tuple(0.8 * channel for channel in shirt), torso_heat - 6))
    neck = (0, head[1] - 0.14, head[2] - 0.02)
    shape.append(body)
    shape.append([
        _limb([neck, head], (0.06, 0.085), skin, face_heat),
        _limb([head, (0, head[1] + 0.05, head[2] + 0.01)], (0.105, 0.1), skin, face_heat),
        _limb([(0, head[1] + 0.06, head[2] - 0.02)], (0.13 if riding else 0.118,), helmet if riding else hair,
              face_heat - (20.0 if riding else 10.0)),
    ])  # fmt: skip
    if not riding and rng.random() < 0.3:
        bag = [(0, 1.05, -0.2), (0, 1.32, -0.18)]
        shape.append([_limb(bag, (0.13, 0.12), _pick(CLOTHES, rng, 10), heat["cloth"] - 22)])
    return shape


def car(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """A saloon, an estate or a small van, and its width, height and length."""
    paint, kind = _pick(PAINTS, rng, 12), rng.integers(3)
    half, long, waist = rng.uniform(0.86, 0.94), rng.uniform(2.05, 2.25), (0.96, 1.02, 1.06)[kind]
    roof = (1.46, 1.6, 1.82)[kind]
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    nose = (0.3, 0.4, 0.75)[kind]  # where the bonnet meets the windscreen, from the front
    bonnet = long * (1 - nose)
    body = ((-long, 0.3), (long, 0.3), (long + 0.04, 0.55), (long - 0.08, 0.8), (bonnet, waist), (-long, waist - 0.04))
    if kind == 0:
        cabin = ((-long + 0.35, waist - 0.05), (bonnet + 0.05, waist - 0.05), (0.35, roof), (-1.05, roof))
    else:
        cabin = ((-long + 0.02, waist - 0.05), (bonnet + 0.05, waist - 0.05), (bonnet - 0.6, roof), (-long + 0.2, roof))
    inner = half - 0.1
    parts = _tyres((-long * 0.62, long * 0.62), half - 0.05, 0.33, wheel)
    parts += _prism(body, half, paint, body_heat, heats={2: engine, 3: engine, 1: engine - 12})
    parts += [
        _face_x(side, half, -long, long, 0.3, 0.42, tuple(0.5 * channel for channel in paint), body_heat)
        for side in (-1, 1)
    ]
    parts += _wheels((-long * 0.62, long * 0.62), half, 0.33, wheel)
    parts += _front(long + 0.03, half, 0.58, 0.76, weather, running, engine)
    parts += _back(long + 0.01, half, waist - 0.3, waist - 0.1, weather, running, body_heat, engine)
    parts += _prism(cabin, inner, paint, body_heat)
    parts += [_glass(cabin, edge, inner, glass_heat) for edge in (1, 3)]
    pillar = 0.5 * (cabin[0][0] + cabin[1][0]) - 0.1
    for side in (-1, 1):
        parts += [
            _window(side, inner, cabin, part, glass_heat) for part in ((cabin[0][0], pillar), (pillar, cabin[1][0]))
        ]
    return [parts], (2 * half, roof, 2 * long)


def bus(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """A city bus with a row of large windows, and its width, height and length."""
    paint = _pick(((196, 44, 36), (48, 120, 190), (58, 150, 84), (226, 178, 44), (220, 222, 220)), rng, 12)
    half, height, long = 1.25, rng.uniform(3.0, 3.3), rng.uniform(4.4, 5.4)
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    glow = (120.0, 112.0, 88.0) if weather.dark and running else BLACK  # lit inside
    profile = ((-long, 0.35), (long, 0.35), (long, height - 0.4), (long - 0.15, height), (-long, height))
    axles = (-long * 0.55, long * 0.62)
    parts = _tyres(axles, half - 0.1, 0.48, wheel)
    parts += _prism(profile, half, paint, body_heat)
    trim = (236.0, 236.0, 232.0)
    for side in (-1, 1):
        parts.append(_face_x(side, half, -long, long, 0.95, 1.2, trim, body_heat))
        parts.append(_face_x(side, half, -long + 0.2, long - 0.15, 1.42, height - 0.55, (30, 34, 40), glass_heat + 3))
        count = 6
        pitch = (2 * long - 0.5) / count
        for at in range(count):
            z = -long + 0.3 + at * pitch
            parts.append(_face_x(side, half, z, z + pitch - 0.16, 1.5, height - 0.62, GLASS, glass_heat, glow))
        door = long - 1.5
        if side > 0:  # doors open to the pavement
            for z in (door, -0.6):
                parts.append(_face_x(side, half, z, z + 1.1, 0.45, height - 0.7, (64, 74, 84), glass_heat - 2, glow))
    parts += _wheels(axles, half, 0.48, wheel)
    parts.append(_face_z(1, long, -half + 0.1, half - 0.1, 1.15, height - 0.7, GLASS, glass_heat, glow))
    sign = (255.0, 168.0, 40.0)
    parts.append(_face_z(1, long, -0.8, 0.8, height - 0.6, height - 0.3, (40, 34, 20), body_heat))
    lit = sign if weather.dark or weather.condition == "fog" else tuple(0.4 * channel for channel in sign)
    parts.append(_face_z(1, long, -0.65, 0.5, height - 0.54, height - 0.36, sign, body_heat, lit))
    parts += _front(long, half, 0.62, 0.9, weather, running, body_heat + 0.25 * (engine - body_heat))
    parts.append(_face_z(-1, long, -half + 0.2, half - 0.2, 1.7, height - 0.6, GLASS, glass_heat, glow))
    parts.append(_face_z(-1, long, -half + 0.2, half - 0.2, 0.6, 1.3, tuple(0.6 * c for c in paint), engine))
    parts += _back(long, half, 0.95, 1.45, weather, running, body_heat, engine)
    roof_unit = ((-1.6, height), (1.2, height), (1.0, height + 0.22), (-1.4, height + 0.22))
    parts += _prism(roof_unit, 0.8, (200, 200, 198), body_heat + (12.0 if running else 0.0))
    return [parts], (2 * half, height + 0.2, 2 * long)


def truck(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """A lorry: a cab before a tall cargo box or an open load bed, and its width, height and length."""
    paint, load = (
        _pick(PAINTS, rng, 12),
        _pick(((226, 226, 220), (204, 196, 168), (86, 120, 92), (150, 96, 60)), rng, 12),
    )
    half, long, roof = 1.2, rng.uniform(3.2, 3.9), rng.uniform(2.35, 2.6)
    body_heat, glass_heat, engine, wheel = _vehicle_heat(weather, rng, running)
    open_bed = rng.random() < 0.3
    top = 1.75 if open_bed else rng.uniform(3.0, 3.4)
    back = long - 1.75  # where the cab ends
    axles = (-long * 0.7, -long * 0.38, long * 0.72)
    cab = ((back, 0.45), (long, 0.45), (long, 1.35), (long - 0.3, roof), (back, roof))
    cab_parts = _tyres(axles[2:], half - 0.15, 0.46, wheel)
    cab_parts += _prism(cab, half - 0.08, paint, body_heat, heats={1: engine})
    cab_parts.append(_glass(cab, 2, half - 0.08, glass_heat))
    for side in (-1, 1):
        cab_parts.append(_face_x(side, half - 0.08, back + 0.45, long - 0.3, 1.4, roof - 0.2, GLASS, glass_heat))
        cab_parts.append(_face_x(side, half - 0.08, back + 0.4, back + 0.44, 0.6, roof - 0.2, (40, 40, 40), body_heat))
    cab_parts += _front(long, half - 0.08, 0.58, 0.85, weather, running, engine)
    cab_parts += _wheels(axles[2:], half - 0.05, 0.46, wheel)
    bed = ((-long, 0.95), (back - 0.15, 0.95), (back - 0.15, top), (-long, top))
    bed_parts = _prism(((-long, 0.6), (back, 0.6), (back, 0.95), (-long, 0.95)), half - 0.2, (46, 46, 50), body_heat)
    bed_parts += _prism(bed, half, load, body_heat - 4)
    ribs = tuple(0.72 * channel for channel in load)
    for side in (-1, 1):
        for z in np.linspace(-long, back - 0.25, 6):
            bed_parts.append(_face_x(side, half, z, z + 0.1, 0.95, top, ribs, body_heat - 6))
        bed_parts.append(_face_x(side, half, -long, back - 0.15, 0.95, 1.08, ribs, body_heat - 6))
    for x in (-0.04, -half + 0.05, half - 0.13):
        bed_parts.append(_face_z(-1, long, x, x + 0.08, 0.95, top, ribs, body_heat - 6))
    if open_bed:
        heap = [(x, top + y, z) for x, z, y in ((-0.6, -long + 0.8, 0.1), (0.5, 0.2, 0.15), (0, -1.2, 0.45))]
        bed_parts.append(_limb(heap, 0.4, (126, 104, 76), body_heat - 2))
    bed_parts += _back(long, half, 0.68, 0.88, weather, running, body_heat, engine)
    bed_parts += _wheels(axles[:2], half - 0.05, 0.46, wheel)
    under = _tyres(axles[:2], half - 0.15, 0.46, wheel)
    return [under + bed_parts, cab_parts], (2 * half, top if not open_bed else roof, 2 * long)


def motorcycle(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[Shape, tuple[float, float, float]]:
    """A motorcycle without its rider, and its width, height and length."""
    paint = _pick(((190, 30, 30), (30, 70, 160), (40, 42, 46), (30, 120, 60), (226, 130, 30)), rng, 12)
    body_heat, _, engine, wheel = _vehicle_heat(weather, rng, running)
    shape: Shape = []
    for z in (-0.68, 0.72):
        rim = [(side * 0.06, *at) for side in (-1, 1) for at in _ring(z, 0.32, 0.32)]
        group = [Part(np.array(rim), RUBBER, wheel)]
        for side in (-1, 1):
            for radius, colour, heat in ((0.23, (120, 122, 126), body_heat), (0.19, (58, 60, 64), body_heat),
                                         (0.07, CHROME, wheel)):  # fmt: skip
                ring = [(side * 0.06, *at) for at in _ring(z, 0.32, radius)]
                group.append(Part(np.array(ring), colour, heat, normal=(side, 0, 0)))
        shape.append(group)
    lamp = HEADLIGHT if running and weather.condition != "day" else BLACK
    tail = TAILLIGHT if running and weather.condition != "day" else BLACK
    shape += [
        [_limb([(0, 0.45, -0.05), (0, 0.42, 0.22)], (0.17, 0.15), (92, 94, 98), engine)],
        [_limb([(0.14, 0.33, 0.05), (0.16, 0.4, -0.75)], (0.045, 0.06), CHROME, engine - 10)],
        [
            _limb([(-0.07, 0.35, 0.72), (-0.07, 0.98, 0.46)], 0.035, CHROME, body_heat),
            _limb([(0.07, 0.35, 0.72), (0.07, 0.98, 0.46)], 0.035, CHROME, body_heat),
            _limb([(0, 0.66, 0.9), (0, 0.69, 0.6)], 0.07, paint, body_heat),  # mudguard
        ],
        [_limb([(0, 0.78, 0.3), (0, 0.74, -0.02)], (0.16, 0.14), paint, body_heat + (10 if running else 0))],  # tank
        [_limb([(0, 0.76, -0.1), (0, 0.8, -0.7)], (0.11, 0.1), (32, 30, 32), body_heat + (8 if running else 0))],
        [_limb([(0, 0.68, -0.5), (0, 0.72, -0.92)], (0.1, 0.06), paint, body_heat)],  # tail
        [_limb([(0, 0.76, -0.96)], (0.06,), (200, 30, 30), body_heat, tail)],
        [
            _limb([(-0.36, 1.02, 0.36), (0, 0.96, 0.46), (0.36, 1.02, 0.36)], 0.03, (40, 40, 44), body_heat),
            _limb([(-0.32, 1.2, 0.42)], (0.06,), (60, 62, 66), body_heat),
            _limb([(0.32, 1.2, 0.42)], (0.06,), (60, 62, 66), body_heat),
        ],
        [
            _limb([(0, 0.86, 0.58)], (0.14,), paint, body_heat),
            _limb([(0, 0.86, 0.64)], (0.1,), (235, 235, 225), body_heat, lamp),
        ],
    ]
    return shape, (0.75, 1.25, 2.1)


def traffic_light(weather: Weather, rng: np.random.Generator) -> tuple[Shape, tuple[float, float, float]]:
    """The head of a traffic light with a backing board, centred on the height 0, and its width, height and depth."""
    half, tall, heat = 0.3, 0.85, weather.heat["metal"]
    parts = _prism(((-0.1, -tall), (0.12, -tall), (0.12, tall), (-0.1, tall)), half, (30, 34, 34), heat)
    parts.append(_face_z(1, 0.13, -half, half, -tall, tall, (176, 178, 160), heat))
    parts.append(_face_z(1, 0.13, -half + 0.05, half - 0.05, -tall + 0.05, tall - 0.05, (26, 28, 30), heat))
    lit = int(rng.choice(3, p=(0.5, 0.1, 0.4)))
    lenses = ((255.0, 44.0, 34.0), (255.0, 176.0, 30.0), (60.0, 255.0, 150.0))
    for at, colour in enumerate(lenses):
        disc = [(0.2 * c, 0.53 * (1 - at) + 0.2 * s, 0.15) for c, s in _circle()]
        on = at == lit
        shown = colour if on else tuple(0.22 * channel for channel in colour)
        parts.append(Part(np.array(disc), shown, heat + (9 if on else 0), colour if on else BLACK, normal=FRONT))
    return [parts], (2 * half, 2 * tall, 0.24)


def lantern(weather: Weather, rng: np.random.Generator) -> tuple[Shape, tuple[float, float, float]]:
    """The lantern of a street lamp, centred on the height 0, and its width, height and depth; lit unless by day."""
    heat = weather.heat["metal"]
    on = weather.condition in ("night", "fog") or weather.dark
    warm = (255.0, 214.0, 140.0) if rng.random() < 0.6 else (240.0, 244.0, 255.0)
    glass = warm if on else (226.0, 224.0, 208.0)
    frame = (34.0, 40.0, 38.0)
    lower = [(x, -0.5, z) for x, z in _circle(0.2)]
    upper = [(x, 0.28, z) for x, z in _circle(0.4)]
    roof = [(x, 0.26, z) for x, z in _circle(0.5)]
    parts = [
        Part(np.array(lower + upper), glass, heat + (5 if on else 0), warm if on else BLACK),
        *(_limb([(0.2 * side, -0.5, 0), (0.4 * side, 0.28, 0)], 0.03, frame, heat) for side in (-1, 1)),
        Part(np.array([*roof, (0, 0.6, 0)]), frame, heat),
        Part(np.array([(x, y, z) for y in (-0.6, -0.5) for x, z in _circle(0.24)]), frame, heat),
    ]
    return [parts], (1.0, 1.2, 1.0)


def post(height: float, radius: float, colour: RGB, heat: float, arm: float = 0.0) -> Shape:
    """A round post, with an arm of `arm` metres to the right (negative: to the left) at its top."""
    shape = [[_limb([(0, 0, 0), (0, height, 0)], (radius * 1.3, radius), colour, heat)]]
    if arm:
        shape[0].append(_limb([(0, height, 0), (arm, height, 0)], (radius, 0.7 * radius), colour, heat))
    return shape


def tree(weather: Weather, rng: np.random.Generator, height: float) -> Shape:
    """A tree with a crown of leaves, `height` metres tall."""
    heat, crown = weather.heat["tree"], 0.3 * height
    trunk = _limb([(0, 0, 0), (0.1, 0.55 * height, 0)], (0.035 * height, 0.02 * height), (74, 58, 44), heat + 6)
    hue = _pick(((54, 88, 40), (70, 100, 44), (94, 104, 48), (120, 92, 40)), rng, 8)
    return [[trunk, *_leaves((0, 0.68 * height, 0), crown, hue, heat, rng, 44)]]


def bush(weather: Weather, rng: np.random.Generator) -> Shape:
    """A bush of about a metre."""
    return [_leaves((0, 0.4, 0), 0.5, _pick(((58, 92, 44), (80, 104, 52)), rng, 8), weather.heat["tree"], rng, 22)]


def bin_(weather: Weather, rng: np.random.Generator) -> Shape:
    """A litter bin or an electric cabinet, which is warm."""
    cabinet = rng.random() < 0.4
    colour = (128, 136, 128) if cabinet else _pick(((30, 84, 52), (48, 60, 88), (88, 88, 92)), rng, 8)
    heat = weather.heat["pavement"] + (rng.uniform(15, 30) if cabinet else -4.0)
    tall = 1.3 if cabinet else 1.0
    parts = _prism(((-0.28, 0), (0.28, 0), (0.32, tall), (-0.32, tall)), 0.33, colour, heat)
    parts += _prism(((-0.34, tall), (0.34, tall), (0.3, tall + 0.1), (-0.3, tall + 0.1)), 0.36, (50, 52, 52), heat - 3)
    return [parts]


def road_sign(weather: Weather, rng: np.random.Generator) -> Shape:
    """A road sign on a post: a red-rimmed disc, a blue disc or a warning triangle."""
    heat, kind = weather.heat["metal"], rng.integers(3)
    ring = [(0.36 * c, 2.4 + 0.36 * s, 0.05) for c, s in _circle()]
    if kind == 2:
        ring = [(0.42 * math.sin(a), 2.35 + 0.42 * math.cos(a), 0.05) for a in (0, -2.1, 2.1)]
    outer = (46, 86, 170) if kind == 1 else (196, 36, 36)
    inner = np.array(ring) * 0.68 + np.array([0, 0.32 * (2.35 if kind == 2 else 2.4), 0.02])
    face = [
        _limb([(0, 0, 0), (0, 2.4, 0)], 0.04, (130, 132, 134), heat),
        Part(np.array(ring), outer, heat, normal=FRONT),
        Part(inner, (70, 110, 200) if kind == 1 else (232, 230, 222), heat, normal=FRONT),
    ]
    return [face]


def _vehicle_heat(weather: Weather, rng: np.random.Generator, running: bool) -> tuple[float, float, float, float]:
    """Return the heat of bodywork, glass, engine and wheels."""
    road = weather.heat["road"]
    if not running:
        body = road + float(rng.choice([-1.0, 1.0])) * rng.uniform(0.5, 1.0) * PARKED_WARMTH
        return body, body - 5.0, body + 1.0, body - 3.0
    body = road + rng.uniform(*RUNNING_WARMTH)
    return body, road - rng.uniform(14.0, 26.0), weather.heat["engine"], road + rng.uniform(35.0, 55.0)


def _front(z: float, half: float, low: float, high: float, weather: Weather, running: bool, heat: float) -> list[Part]:
    """Grille, number plate and headlights on the front face at `z`."""
    lit = HEADLIGHT if running and (weather.dark or weather.condition == "fog") else BLACK
    edge = half - 0.06
    parts = [
        _face_z(1, z, -0.5 * half, 0.5 * half, low - 0.12, high, (28, 30, 32), heat + 8),
        _face_z(1, z, -0.26, 0.26, low - 0.2, low - 0.08, (225, 225, 210), heat - 10),
    ]
    for side in (-1, 1):
        x = sorted((side * edge, side * 0.58 * half))
        parts.append(_face_z(1, z, x[0], x[1], low, high, (238, 240, 236), heat - 6, lit))
    return parts


def _back(
    z: float, half: float, low: float, high: float, weather: Weather, running: bool, heat: float, engine: float
) -> list[Part]:
    """Tail lights, number plate, bumper and exhaust on the rear face at `-z`."""
    lit = TAILLIGHT if running and (weather.dark or weather.condition == "fog") else BLACK
    parts = [
        _face_z(-1, z, -half, half, 0.32, 0.5, (52, 54, 56), heat + (8 if running else 0)),
        _face_z(-1, z, -0.26, 0.26, low, low + 0.13, (225, 225, 210), heat),
        _face_z(-1, z, -0.75 * half, -0.4 * half, 0.28, 0.4, (60, 60, 62), engine if running else heat),
    ]
    for side in (-1, 1):
        x = sorted((side * (half - 0.04), side * (half - 0.3)))
        parts.append(_face_z(-1, z, x[0], x[1], low, high, (190, 26, 26), heat + (5 if running else 0), lit))
    return parts


def _tyres(axles: Sequence[float], half: float, radius: float, heat: float) -> list[Part]:
    parts = []
    for z in axles:
        for side in (-1, 1):
            rim = [(side * x, *at) for x in (half, half - 0.2) for at in _ring(z, radius, radius)]
            parts.append(Part(np.array(rim), RUBBER, heat - 6))
    return parts


def _wheels(axles: Sequence[float], half: float, radius: float, heat: float) -> list[Part]:
    """Wheel arch, tyre and rim on both sides."""
    rings = ((1.18, (26, 26, 28), -20.0), (1.0, RUBBER, 0.0), (0.62, (168, 170, 174), -8.0), (0.2, (70, 72, 76), 6.0))
    return [
        Part(np.array([(side * half, *at) for at in _ring(z, radius, radius * grow)]), colour, heat + extra,
             normal=(side, 0, 0))
        for z in axles for side in (-1, 1) for grow, colour, extra in rings
    ]  # fmt: skip


def _prism(
    profile: Profile, half: float, colour: RGB, heat: float, heats: dict[int, float] | None = None
) -> list[Part]:
    """A convex outline in (z, y), counterclockwise, drawn out to `half` on both sides; `heats` are those of edges."""
    parts = []
    for edge, ((z0, y0), (z1, y1)) in enumerate(zip(profile, [*profile[1:], profile[0]], strict=True)):
        points = np.array([(-half, y0, z0), (half, y0, z0), (half, y1, z1), (-half, y1, z1)])
        length = math.hypot(z1 - z0, y1 - y0)
        normal = (0.0, (z0 - z1) / length, (y1 - y0) / length)
        parts.append(Part(points, colour, (heats or {}).get(edge, heat), normal=normal))
    for side in (-1, 1):
        points = np.array([(side * half, y, z) for z, y in profile])
        parts.append(Part(points, colour, heat, normal=(side, 0.0, 0.0)))
    return parts


def _glass(profile: Profile, edge: int, half: float, heat: float) -> Part:
    """A pane set into the face that `_prism` makes of an edge of the profile."""
    (z0, y0), (z1, y1) = profile[edge], profile[(edge + 1) % len(profile)]
    points = np.array([(-half, y0, z0), (half, y0, z0), (half, y1, z1), (-half, y1, z1)])
    points = points.mean(axis=0) + (points - points.mean(axis=0)) * np.array([0.88, 0.82, 0.82])
    return Part(points, GLASS, heat, normal=(0.0, z0 - z1, y1 - y0))


def _window(side: int, half: float, profile: Profile, span: tuple[float, float], heat: float) -> Part:
    """A side window between two places of a cabin's lower edge, cut off by its slanting ends."""
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


def _face_x(
    side: int, half: float, z0: float, z1: float, y0: float, y1: float, colour: RGB, heat: float, glow: RGB = BLACK
) -> Part:
    points = [(side * half, y0, z0), (side * half, y0, z1), (side * half, y1, z1), (side * half, y1, z0)]
    return Part(np.array(points), colour, heat, glow, normal=(side, 0.0, 0.0))


def _face_z(
    side: int, z: float, x0: float, x1: float, y0: float, y1: float, colour: RGB, heat: float, glow: RGB = BLACK
) -> Part:
    points = [(x0, y0, side * z), (x1, y0, side * z), (x1, y1, side * z), (x0, y1, side * z)]
    return Part(np.array(points), colour, heat, glow, normal=FRONT if side > 0 else REAR)


def _limb(points: Sequence, radius: Sequence[float] | float, colour: RGB, heat: float, glow: RGB = BLACK) -> Part:
    return Part(np.array(points, float), colour, heat, glow, radius=np.array(radius))


def _leaves(
    centre: tuple[float, float, float], radius: float, hue: RGB, heat: float, rng: np.random.Generator, count: int
) -> list[Part]:
    """Blobs of leaves in a ball, the upper ones lighter."""
    places = rng.normal(0.0, 0.42, (count, 3)) * radius
    places[:, 1] *= 0.8
    heats, lights = heat + rng.uniform(-4, 5, count), rng.uniform(-0.12, 0.12, count)
    parts = []
    for at in np.argsort(places[:, 1] - 0.5 * places[:, 2]):
        light = 0.8 + 0.28 * places[at, 1] / radius + lights[at]
        parts.append(
            _limb([places[at] + centre], (0.27 * radius,), tuple(channel * light for channel in hue), heats[at])
        )
    return parts


def _ring(z: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Points (y, z) of an upright circle in the plane of a wheel."""
    return [(y + radius * s, z + radius * c) for c, s in _circle()]


def _circle(radius: float = 1.0) -> list[tuple[float, float]]:
    return [(radius * cosine, radius * sine) for cosine, sine in _CIRCLE]


def _pick(colours: Sequence[RGB], rng: np.random.Generator, spread: float) -> RGB:
    """One of the colours, changed a little."""
    colour = colours[int(rng.integers(len(colours)))]
    return tuple(float(channel + rng.uniform(-spread, spread)) for channel in colour)
