"""The shapes of people, lamps and clutter, as parts with a colour and a heat, facing along +z.

The painter sorts a shape's groups of parts by distance.
"""

import math

import numpy as np

from fusion.synthetic.painting import BLACK, RGB, Part
from fusion.synthetic.parts import FRONT, PAINTS, Shape, circle, face_z, limb, pick, prism
from fusion.synthetic.weather import Weather

CLOTHES = (
    (168, 38, 42), (36, 62, 132), (44, 46, 52), (214, 206, 190), (60, 112, 66),
    (212, 168, 44), (120, 76, 140), (88, 92, 100), (210, 110, 50), (70, 50, 38),
)  # fmt: skip
SKINS = ((226, 182, 150), (198, 148, 112), (140, 96, 68), (240, 200, 172))


def person(weather: Weather, rng: np.random.Generator, riding: bool = False) -> Shape:
    """Return a person of about 1.75 m: at a random phase of walking, standing, or sitting on a motorcycle."""
    heat = weather.heat
    shirt, trousers = (pick(CLOTHES, rng, 16) for _ in range(2))
    skin = pick(SKINS, rng, 10)
    hair = helmet = pick(PAINTS, rng, 10) if riding else pick(((30, 24, 20), (90, 62, 36), (150, 140, 130)), rng, 8)
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
        dim = 0.85 if side < 0 else 1.0  # one leg is darker, so that both can be seen
        leg = tuple(channel * dim for channel in trousers)
        toe = (foot[0], foot[1] - 0.02, foot[2] + 0.14)
        shape.append([limb([hip_joint, knee], (0.1, 0.075), leg, leg_heat)])
        shape.append([
            limb([knee, foot], (0.075, 0.055), leg, leg_heat - 3),
            limb([foot, toe], (0.055, 0.045), (34, 30, 30), leg_heat - 12),
        ])  # fmt: skip
        sleeve = tuple(channel * (0.82 if side < 0 else 0.95) for channel in shirt)
        shape.append([
            limb([shoulder_joint, elbow], (0.068, 0.055), sleeve, torso_heat - 2),
            limb([elbow, hand], (0.055, 0.04), sleeve, torso_heat - 2),
            limb([hand], (0.05,), skin, face_heat - 8),
        ])  # fmt: skip
    chest = [(-0.15, shoulder[1], shoulder[2]), (0.15, shoulder[1], shoulder[2]), (-0.1, *hip[1:]), (0.1, *hip[1:])]
    body = [limb(chest, (0.085, 0.085, 0.1, 0.1), shirt, torso_heat)]
    if not riding and rng.random() < 0.3:  # a skirt or a long coat
        knee_line = [(-0.15, 0.62, 0.05), (0.15, 0.62, 0.05), (-0.1, 0.95, 0), (0.1, 0.95, 0)]
        body.append(limb(knee_line, 0.08, tuple(0.8 * channel for channel in shirt), torso_heat - 6))
    neck = (0, head[1] - 0.14, head[2] - 0.02)
    shape.append(body)
    shape.append([
        limb([neck, head], (0.06, 0.085), skin, face_heat),
        limb([head, (0, head[1] + 0.05, head[2] + 0.01)], (0.105, 0.1), skin, face_heat),
        limb([(0, head[1] + 0.06, head[2] - 0.02)], (0.13 if riding else 0.118,), helmet if riding else hair,
              face_heat - (20.0 if riding else 10.0)),
    ])  # fmt: skip
    if not riding and rng.random() < 0.3:
        bag = [(0, 1.05, -0.2), (0, 1.32, -0.18)]
        shape.append([limb(bag, (0.13, 0.12), pick(CLOTHES, rng, 10), heat["cloth"] - 22)])
    return shape


def traffic_light(weather: Weather, rng: np.random.Generator) -> tuple[Shape, tuple[float, float, float]]:
    """Return the head of a traffic light with a backing board, centred at height 0, and its width, height and depth."""
    half, tall, heat = 0.3, 0.85, weather.heat["metal"]
    parts = prism(((-0.1, -tall), (0.12, -tall), (0.12, tall), (-0.1, tall)), half, (30, 34, 34), heat)
    parts.append(face_z(1, 0.13, -half, half, -tall, tall, (176, 178, 160), heat))
    parts.append(face_z(1, 0.13, -half + 0.05, half - 0.05, -tall + 0.05, tall - 0.05, (26, 28, 30), heat))
    lit = int(rng.choice(3, p=(0.5, 0.1, 0.4)))
    lenses = ((255.0, 44.0, 34.0), (255.0, 176.0, 30.0), (60.0, 255.0, 150.0))
    for at, colour in enumerate(lenses):
        disc = [(0.2 * c, 0.53 * (1 - at) + 0.2 * s, 0.15) for c, s in circle()]
        on = at == lit
        shown = colour if on else tuple(0.22 * channel for channel in colour)
        parts.append(Part(np.array(disc), shown, heat + (9 if on else 0), colour if on else BLACK, normal=FRONT))
    return [parts], (2 * half, 2 * tall, 0.24)


def lantern(weather: Weather, rng: np.random.Generator) -> tuple[Shape, tuple[float, float, float]]:
    """Return a street lamp's lantern, centred at height 0, and its width, height and depth; it is lit except by day."""
    heat = weather.heat["metal"]
    on = weather.condition in ("night", "fog") or weather.dark
    warm = (255.0, 214.0, 140.0) if rng.random() < 0.6 else (240.0, 244.0, 255.0)
    glass = warm if on else (226.0, 224.0, 208.0)
    frame = (34.0, 40.0, 38.0)
    lower = [(x, -0.5, z) for x, z in circle(0.2)]
    upper = [(x, 0.28, z) for x, z in circle(0.4)]
    roof = [(x, 0.26, z) for x, z in circle(0.5)]
    parts = [
        Part(np.array(lower + upper), glass, heat + (5 if on else 0), warm if on else BLACK),
        *(limb([(0.2 * side, -0.5, 0), (0.4 * side, 0.28, 0)], 0.03, frame, heat) for side in (-1, 1)),
        Part(np.array([*roof, (0, 0.6, 0)]), frame, heat),
        Part(np.array([(x, y, z) for y in (-0.6, -0.5) for x, z in circle(0.24)]), frame, heat),
    ]
    return [parts], (1.0, 1.2, 1.0)


def post(height: float, radius: float, colour: RGB, heat: float, arm: float = 0.0) -> Shape:
    """Return a round post, with an arm of `arm` metres to the right (negative: to the left) at its top."""
    shape = [[limb([(0, 0, 0), (0, height, 0)], (radius * 1.3, radius), colour, heat)]]
    if arm:
        shape[0].append(limb([(0, height, 0), (arm, height, 0)], (radius, 0.7 * radius), colour, heat))
    return shape


def tree(weather: Weather, rng: np.random.Generator, height: float) -> Shape:
    """Return a tree with a crown of leaves, `height` metres tall."""
    heat, crown = weather.heat["tree"], 0.3 * height
    trunk = limb([(0, 0, 0), (0.1, 0.55 * height, 0)], (0.035 * height, 0.02 * height), (74, 58, 44), heat + 6)
    hue = pick(((54, 88, 40), (70, 100, 44), (94, 104, 48), (120, 92, 40)), rng, 8)
    return [[trunk, *_leaves((0, 0.68 * height, 0), crown, hue, heat, rng, 44)]]


def bush(weather: Weather, rng: np.random.Generator) -> Shape:
    """Return a bush of about a metre."""
    return [_leaves((0, 0.4, 0), 0.5, pick(((58, 92, 44), (80, 104, 52)), rng, 8), weather.heat["tree"], rng, 22)]


def bin_(weather: Weather, rng: np.random.Generator) -> Shape:
    """Return a litter bin, or an electrical cabinet, which is warm."""
    cabinet = rng.random() < 0.4
    colour = (128, 136, 128) if cabinet else pick(((30, 84, 52), (48, 60, 88), (88, 88, 92)), rng, 8)
    heat = weather.heat["pavement"] + (rng.uniform(15, 30) if cabinet else -4.0)
    tall = 1.3 if cabinet else 1.0
    parts = prism(((-0.28, 0), (0.28, 0), (0.32, tall), (-0.32, tall)), 0.33, colour, heat)
    parts += prism(((-0.34, tall), (0.34, tall), (0.3, tall + 0.1), (-0.3, tall + 0.1)), 0.36, (50, 52, 52), heat - 3)
    return [parts]


def road_sign(weather: Weather, rng: np.random.Generator) -> Shape:
    """Return a road sign on a post: a red-rimmed disc, a blue disc or a warning triangle."""
    heat, kind = weather.heat["metal"], rng.integers(3)
    ring = [(0.36 * c, 2.4 + 0.36 * s, 0.05) for c, s in circle()]
    if kind == 2:
        ring = [(0.42 * math.sin(a), 2.35 + 0.42 * math.cos(a), 0.05) for a in (0, -2.1, 2.1)]
    outer = (46, 86, 170) if kind == 1 else (196, 36, 36)
    inner = np.array(ring) * 0.68 + np.array([0, 0.32 * (2.35 if kind == 2 else 2.4), 0.02])
    face = [
        limb([(0, 0, 0), (0, 2.4, 0)], 0.04, (130, 132, 134), heat),
        Part(np.array(ring), outer, heat, normal=FRONT),
        Part(inner, (70, 110, 200) if kind == 1 else (232, 230, 222), heat, normal=FRONT),
    ]
    return [face]


def _leaves(
    centre: tuple[float, float, float], radius: float, hue: RGB, heat: float, rng: np.random.Generator, count: int
) -> list[Part]:
    """Return blobs of leaves around a centre, the upper ones lighter."""
    places = rng.normal(0.0, 0.42, (count, 3)) * radius
    places[:, 1] *= 0.8
    heats, lights = heat + rng.uniform(-4, 5, count), rng.uniform(-0.12, 0.12, count)
    parts = []
    for at in np.argsort(places[:, 1] - 0.5 * places[:, 2]):
        light = 0.8 + 0.28 * places[at, 1] / radius + lights[at]
        parts.append(
            limb([places[at] + centre], (0.27 * radius,), tuple(channel * light for channel in hue), heats[at])
        )
    return parts
