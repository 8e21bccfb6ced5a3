"""The parts that shapes are composed of: prisms, faces, limbs and rings, in metres."""

import math
from collections.abc import Sequence

import numpy as np

from fusion.synthetic.painting import BLACK, RGB, Part

Shape = list[list[Part]]  # groups of parts; each group is convex, or in an order that can be painted from any side
Profile = Sequence[tuple[float, float]]

PAINTS = (
    (205, 205, 208), (178, 30, 32), (36, 66, 148), (34, 36, 40), (120, 126, 132),
    (232, 230, 222), (22, 104, 84), (196, 158, 40), (92, 50, 40), (60, 112, 168),
)  # fmt: skip
FRONT, REAR = (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)

_CIRCLE = [(math.cos(turn * math.pi / 7), math.sin(turn * math.pi / 7)) for turn in range(14)]


def prism(profile: Profile, half: float, colour: RGB, heat: float, heats: dict[int, float] | None = None) -> list[Part]:
    """Return a convex outline in (z, y), counterclockwise, extruded by `half` to both sides; `heats` by edge."""
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


def face_x(
    side: int, half: float, z0: float, z1: float, y0: float, y1: float, colour: RGB, heat: float, glow: RGB = BLACK
) -> Part:
    """Return a rectangle on the left (`side` -1) or right (1), `half` metres from the middle."""
    points = [(side * half, y0, z0), (side * half, y0, z1), (side * half, y1, z1), (side * half, y1, z0)]
    return Part(np.array(points), colour, heat, glow, normal=(side, 0.0, 0.0))


def face_z(
    side: int, z: float, x0: float, x1: float, y0: float, y1: float, colour: RGB, heat: float, glow: RGB = BLACK
) -> Part:
    """Return a rectangle that faces backward (`side` -1) or forward (1), `z` metres from the middle."""
    points = [(x0, y0, side * z), (x1, y0, side * z), (x1, y1, side * z), (x0, y1, side * z)]
    return Part(np.array(points), colour, heat, glow, normal=FRONT if side > 0 else REAR)


def limb(points: Sequence, radius: Sequence[float] | float, colour: RGB, heat: float, glow: RGB = BLACK) -> Part:
    """Return a rounded body around points, with one radius for all or one for each."""
    return Part(np.array(points, float), colour, heat, glow, radius=np.array(radius))


def ring(z: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Return points (y, z) of an upright circle in the plane of a wheel."""
    return [(y + radius * s, z + radius * c) for c, s in circle()]


def circle(radius: float = 1.0) -> list[tuple[float, float]]:
    """Return points (x, y) of a circle."""
    return [(radius * cosine, radius * sine) for cosine, sine in _CIRCLE]


def pick(colours: Sequence[RGB], rng: np.random.Generator, spread: float) -> RGB:
    """Return one of the colours, with every channel varied by up to `spread`."""
    colour = colours[int(rng.integers(len(colours)))]
    return tuple(float(channel + rng.uniform(-spread, spread)) for channel in colour)
