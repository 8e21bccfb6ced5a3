"""One scene: its objects, their places, both images, and the boxes of the visible parts of the objects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusion.synthetic import shapes, vehicles
from fusion.synthetic.bands import LightPatch, fog_transmission, render_infrared, render_visible
from fusion.synthetic.painting import FOCAL, SUPERSAMPLING, Camera, Painter, Pose
from fusion.synthetic.parts import Shape
from fusion.synthetic.street import HALF_ROAD, Street, choose_street, paint_street
from fusion.synthetic.weather import CONDITIONS, Weather, choose_weather

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
RARE = ("Bus", "Lamp", "Motorcycle", "Truck")

# Each scene has two rare classes, so that each of them is in half of all scenes. The numbers of people and cars are
# drawn from these ranges.
PEOPLE_COUNT, CAR_COUNT = (1, 3), (1, 2)
# Metres from the camera to the nearest point of an object: larger values make boxes smaller and detection harder.
DISTANCE = {
    "People": (5.0, 13.0),
    "Car": (5.0, 14.0),
    "Bus": (6.5, 15.0),
    "Lamp": (7.0, 13.0),
    "Motorcycle": (4.5, 10.0),
    "Truck": (6.0, 14.0),
}
CLUTTER_DISTANCE = (7.0, 24.0)
# Share of cars and trucks whose engine is off and cold, so that infrared hardly shows them. The share is lower at
# night, when the visible image hardly shows them either.
PARKED_SHARE = {"day": 0.55, "night": 0.2, "fog": 0.3, "glare": 0.4}
# Share of motorcycles with a rider and a running engine, and of lamps that are traffic lights, not street lamps.
RIDDEN_SHARE, TRAFFIC_LIGHT_SHARE = 0.65, 0.55
# Smallest side of a box in pixels, and smallest side of an unhidden object's outline when it is placed.
SMALLEST_BOX, SMALLEST_PLACED = 6, 8
# Largest share of an object's outline that one nearer object, or one piece of clutter, may cover when it is placed; and
# the smallest share of the object that must remain visible at the end, or else the object is removed.
MAY_HIDE, CLUTTER_MAY_HIDE, MUST_SHOW = 0.45, 0.15, 0.25
# Smallest share of an object that must be inside the image.
INSIDE = 0.6
ATTEMPTS = 40
VEHICLES = {"Car": vehicles.car, "Bus": vehicles.bus, "Truck": vehicles.truck}


@dataclass(frozen=True)
class Box:
    """The box of the visible part of an object: pixel edges, `right` and `bottom` exclusive."""

    label: str
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Scene:
    """Both images of a scene, uint8 (H, W, 3) RGB and (H, W), and its boxes."""

    condition: str
    visible: np.ndarray
    infrared: np.ndarray
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Thing:
    shape: Shape
    pose: Pose
    size: tuple[float, float, float]  # width, height, length in metres
    label: str | None = None  # None for clutter
    running: bool = False
    group: int = 0  # things of one group, such as a motorcycle and its rider, are placed and removed together
    shadow: bool = True
    mirrors: bool = False  # bare metal and glass: nearly as warm as their background

    @property
    def distance(self) -> float:
        return math.hypot(self.pose.x, self.pose.z)


def make_scene(seed: int, index: int, width: int, height: int) -> Scene:
    """Return scene `index` of the dataset of this seed; it depends only on the arguments.

    Every block of four scenes has each of the four conditions once, and each rare class twice.
    """
    block = np.random.default_rng([seed, 1, index // len(CONDITIONS)])
    at = index % len(CONDITIONS)
    condition = CONDITIONS[block.permutation(len(CONDITIONS))[at]]
    turn = block.permutation(len(RARE))
    certain = [RARE[turn[at]], RARE[turn[(at + 1) % len(RARE)]]]
    rng = np.random.default_rng([seed, 0, index])
    weather, street = choose_weather(condition, rng), choose_street(rng)
    unit = min(width / 320.0, height / 240.0)
    camera = Camera(
        focal=SUPERSAMPLING * FOCAL * unit,
        centre=SUPERSAMPLING * width * rng.uniform(0.4, 0.6),
        horizon=SUPERSAMPLING * height * rng.uniform(0.4, 0.46),
        height=rng.uniform(1.85, 2.3),
    )
    frame = (SUPERSAMPLING * width, SUPERSAMPLING * height)
    things = _choose_things(certain, camera, frame, street, weather, rng)
    backdrop = Painter(camera, *frame, weather.sun)
    paint_street(backdrop, street, weather, rng)
    seeds = rng.integers(0, 2**32, 2)
    while True:
        painter, whole = _paint_things(backdrop, things, weather)
        boxes = _find_boxes(painter, things, whole)
        lost = {thing.group for thing, box in zip(things, boxes, strict=True) if thing.label and box is None}
        if not lost:
            break
        things = [thing for thing in things if thing.group not in lost]
    visible, infrared = _expose(painter, things, (width, height), street.wall, weather, unit, seeds)
    return Scene(condition, visible, infrared, tuple(box for box in boxes if box is not None))


def _choose_things(
    certain: Sequence[str],
    camera: Camera,
    frame: tuple[int, int],
    street: Street,
    weather: Weather,
    rng: np.random.Generator,
) -> list[_Thing]:
    """Place objects, then clutter, so that each is inside the image and hides little enough of the others."""
    kinds = list(certain)
    if weather.glare == "headlights":
        kinds.insert(0, "Oncoming")
    kinds += ["Car"] * int(rng.integers(CAR_COUNT[0], CAR_COUNT[1] + 1))
    kinds += ["People"] * int(rng.integers(PEOPLE_COUNT[0], PEOPLE_COUNT[1] + 1))
    kinds += ["Tree"] * int(rng.integers(0, 4)) + ["Clutter"] * int(rng.integers(1, 4))
    things: list[_Thing] = []
    outlines: list[tuple[float, float, float, float]] = []
    for number, kind in enumerate(kinds, start=1):
        made = _make_things(kind, weather, rng)
        for _ in range(ATTEMPTS):
            place = _choose_place(kind, made, camera, frame, street, rng)
            moved = [replace(thing, pose=_add(place, thing.pose), group=number) for thing in made]
            boxes = [_outline(thing, camera) for thing in moved]
            if all(_fits(thing, box, things, outlines, frame) for thing, box in zip(moved, boxes, strict=True)):
                things += moved
                outlines += boxes
                break
    return things


def _make_things(kind: str, weather: Weather, rng: np.random.Generator) -> list[_Thing]:
    """Return a thing at the world's origin, or several that belong together."""
    here = Pose(0.0, 0.0)
    if kind == "People":
        tall = rng.uniform(0.93, 1.06)
        return [_Thing(_grow(shapes.person(weather, rng), tall), here, (0.6, 1.75 * tall, 0.5), "People")]
    if kind == "Motorcycle":
        ridden = rng.random() < RIDDEN_SHARE
        shape, size = vehicles.motorcycle(weather, rng, ridden)
        things = [_Thing(shape, here, size, "Motorcycle", running=ridden)]
        if ridden:  # the rider has a separate box as a person, as in M3FD
            rider = shapes.person(weather, rng, riding=True)
            things.append(_Thing(rider, here, (0.7, 1.75, 0.8), "People", shadow=False))
        return things
    if kind == "Lamp":
        return _make_lamp(weather, rng)
    if kind == "Tree":
        tall = rng.uniform(4.5, 7.5)
        return [_Thing(shapes.tree(weather, rng, tall), here, (0.5 * tall, tall, 0.5 * tall))]
    if kind == "Clutter":
        kinds = ((shapes.bin_, (0.7, 1.2, 0.7)), (shapes.bush, (1.2, 0.9, 1.2)), (shapes.road_sign, (0.8, 2.8, 0.2)))
        make, size = kinds[int(rng.integers(len(kinds)))]
        return [_Thing(make(weather, rng), Pose(0.0, 0.0, math.pi), size)]
    label = "Car" if kind == "Oncoming" else kind
    running = (
        kind in ("Oncoming", "Bus") or rng.random() >= PARKED_SHARE["night" if weather.dark else weather.condition]
    )
    shape, size = VEHICLES[label](weather, rng, running)
    return [_Thing(shape, here, size, label, running=running)]


def _make_lamp(weather: Weather, rng: np.random.Generator) -> list[_Thing]:
    """Return a traffic light or a street lamp: as in M3FD, only its head is the object; post and arm are clutter."""
    arm, yaw, metal = 0.0, math.pi, (92.0, 96.0, 98.0)
    if rng.random() < TRAFFIC_LIGHT_SHARE:
        (shape, size), high = shapes.traffic_light(weather, rng), rng.uniform(3.3, 4.3)
        yaw += rng.uniform(-0.25, 0.25)
        top = high - 0.8
        if rng.random() < 0.5:  # hangs over the road from an arm
            top = high = rng.uniform(4.4, 5.2)
            arm = float(rng.choice([-1.0, 1.0])) * rng.uniform(1.5, 4.0)
    else:
        (shape, size), high, metal = shapes.lantern(weather, rng), rng.uniform(3.6, 4.8), (44.0, 50.0, 48.0)
        top = high - 0.55
    post = shapes.post(top, 0.07, metal, weather.heat["metal"], arm)
    return [
        _Thing(post, Pose(0.0, 0.0), (0.2, top, 0.2), shadow=False, mirrors=True),
        _Thing(shape, Pose(arm, -0.1, yaw, high), size, "Lamp", shadow=False, mirrors=True),
    ]


def _choose_place(
    kind: str, made: Sequence[_Thing], camera: Camera, frame: tuple[int, int], street: Street, rng: np.random.Generator
) -> Pose:
    """Draw a place where things of this kind may be: a lane, the kerb, the pavement."""
    thing = made[0]
    near = rng.uniform(*DISTANCE.get(thing.label or kind, DISTANCE["Lamp"] if kind == "Lamp" else CLUTTER_DISTANCE))
    reach = 0.5 * frame[0] * near / camera.focal  # metres to either side that the image shows at this distance
    side = float(rng.choice([-1.0, 1.0]))
    if kind == "People":
        return Pose(_clip(rng.uniform(-reach, reach), street.wall - 0.8), near, rng.uniform(0.0, 2 * math.pi))
    if kind == "Motorcycle" and thing.running:
        x = rng.uniform(-3.5, 3.5)
        return Pose(x, near + 0.6, (math.pi if x < 0 else 0.0) + rng.uniform(-1.4, 1.4))
    if kind == "Motorcycle":  # leaning on its stand at the kerb, across the road
        return Pose(side * rng.uniform(4.2, 6.6), near + 0.6, 0.5 * math.pi * side + rng.uniform(-0.7, 0.7))
    if kind == "Lamp":
        arm = made[-1].pose.x
        side = -math.copysign(1.0, arm) if arm else side
        # Nearby, the street is wider than the image; the post then stands on an island.
        return Pose(side * min(rng.uniform(HALF_ROAD + 0.4, HALF_ROAD + 1.6), max(reach - 1.0, 1.0)), near)
    if kind in ("Tree", "Clutter"):
        x = rng.uniform(HALF_ROAD + 0.5, HALF_ROAD + 2.2) + (0.8 if kind == "Tree" else 0.0)
        return Pose(side * x, near)
    if kind == "Oncoming":
        x, yaw = rng.uniform(-2.0, -1.2), math.pi + rng.uniform(-0.08, 0.08)
    elif not thing.running:
        x, yaw = side * rng.uniform(4.2, 4.5), (0.0 if side > 0 else math.pi) + rng.uniform(-0.06, 0.06)
    else:
        x, yaw = (
            (rng.uniform(-2.1, -1.4), math.pi + rng.uniform(-0.2, 0.2)),
            (rng.uniform(1.4, 2.1), rng.uniform(-0.2, 0.2)),
            (rng.uniform(-4.0, 4.0), 0.5 * math.pi * side + rng.uniform(-0.4, 0.4)),
        )[int(rng.choice(3, p=(0.35, 0.3, 0.35)))]
    ahead = 0.5 * (thing.size[2] * abs(math.cos(yaw)) + thing.size[0] * abs(math.sin(yaw)))
    return Pose(x, near + ahead, yaw)


def _add(place: Pose, offset: Pose) -> Pose:
    return Pose(place.x + offset.x, place.z + offset.z, place.yaw + offset.yaw, place.y + offset.y)


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _fits(
    thing: _Thing,
    box: tuple[float, float, float, float],
    others: Sequence[_Thing],
    outlines: Sequence[tuple[float, float, float, float]],
    frame: tuple[int, int],
) -> bool:
    """Return whether a thing is sufficiently inside the image, overlaps no other, and leaves objects visible enough."""
    if thing.label:
        shown = (max(box[0], 0), max(box[1], 0), min(box[2], frame[0]), min(box[3], frame[1]))
        sides = shown[2] - shown[0], shown[3] - shown[1]
        if min(sides) < SUPERSAMPLING * SMALLEST_PLACED or _area(shown) < INSIDE * _area(box):
            return False
    wide, long = _footprint(thing)
    for other, theirs in zip(others, outlines, strict=True):
        side, ahead = abs(thing.pose.x - other.pose.x), abs(thing.pose.z - other.pose.z)
        other_wide, other_long = _footprint(other)
        if 2 * side < wide + other_wide and 2 * ahead < long + other_long:
            return False
        both = (max(box[0], theirs[0]), max(box[1], theirs[1]), min(box[2], theirs[2]), min(box[3], theirs[3]))
        behind, before, seen = (thing, other, box) if thing.distance > other.distance else (other, thing, theirs)
        limit = MAY_HIDE if before.label else CLUTTER_MAY_HIDE
        if behind.label and both[2] > both[0] and both[3] > both[1] and _area(both) > limit * _area(seen):
            return False
    return True


def _footprint(thing: _Thing) -> tuple[float, float]:
    wide, _, long = thing.size
    cosine, sine = abs(math.cos(thing.pose.yaw)), abs(math.sin(thing.pose.yaw))
    return wide * cosine + long * sine, wide * sine + long * cosine


def _corners(thing: _Thing) -> np.ndarray:
    """Return the corners of a thing's bounding cuboid, its base first, in world coordinates."""
    wide, tall, long = thing.size
    base = -0.5 * tall if thing.label == "Lamp" else 0.0
    flat = [(sx * wide / 2, sz * long / 2) for sx, sz in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return thing.pose.place(np.array([(x, base + y, z) for y in (0.0, tall) for x, z in flat]))


def _outline(thing: _Thing, camera: Camera) -> tuple[float, float, float, float]:
    pixels = camera.project(_corners(thing))
    return (*pixels.min(axis=0).tolist(), *pixels.max(axis=0).tolist())


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _grow(shape: Shape, factor: float) -> Shape:
    return [[replace(part, points=part.points * factor) for part in group] for group in shape]


def _paint_things(backdrop: Painter, things: Sequence[_Thing], weather: Weather) -> tuple[Painter, list[int]]:
    """Paint shadows, then the things from far to near, over a copy of the street; thing i has the owner number i + 1.

    Returns:
        The painter, and the number of drawn pixels of each labelled thing before nearer things are painted over it.
    """
    painter = backdrop.copy()
    for thing in things:
        if not thing.shadow:
            continue
        base = _corners(thing)[:4]
        points = [base]
        if weather.condition == "day" or weather.glare == "sun":
            points.append(base - np.array([weather.sun[0], 0.0, weather.sun[2]]) * 0.4 * thing.size[1])
        ground = cv2.convexHull(painter.camera.project(np.concatenate(points)).astype(np.float32))[:, 0]
        warm = 14.0 if thing.running else -3.0
        painter.fill([ground], (56.0, 56.0, 62.0), weather.heat["road"] + warm)
    whole = [0] * len(things)
    for number in sorted(range(len(things)), key=lambda number: -things[number].distance):
        thing, warmer = things[number], 0.0
        if thing.mirrors:
            left, top, right, bottom = (max(round(edge), 0) for edge in _outline(thing, painter.camera))
            behind = painter.surface[top : bottom + 1, left : right + 1, 3]
            warmer = float(behind.mean()) - weather.heat["metal"] if behind.size else 0.0
        painter.draw(thing.shape, thing.pose, number + 1, warmer)
        if thing.label:
            whole[number] = np.count_nonzero(painter.light[..., 3] == number + 1)
    return painter, whole


def _find_boxes(painter: Painter, things: Sequence[_Thing], whole: Sequence[int]) -> list[Box | None]:
    """Return the box of each thing's visible part; None for clutter and for things that are hidden or too small."""
    owners = np.ascontiguousarray(painter.light[..., 3])
    boxes: list[Box | None] = []
    for owner, thing in enumerate(things, start=1):
        boxes.append(None)
        if thing.label is None:
            continue
        seen = owners == owner
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if not len(rows):
            continue
        # The box contains every output pixel that shows a part of the thing.
        left, top = int(columns[0]) // SUPERSAMPLING, int(rows[0]) // SUPERSAMPLING
        right, bottom = int(columns[-1]) // SUPERSAMPLING + 1, int(rows[-1]) // SUPERSAMPLING + 1
        if min(right - left, bottom - top) < SMALLEST_BOX or np.count_nonzero(seen) < MUST_SHOW * whole[owner - 1]:
            continue
        boxes[-1] = Box(thing.label, left, top, right, bottom)
    return boxes


def _expose(
    painter: Painter,
    things: Sequence[_Thing],
    size: tuple[int, int],
    wall: float,
    weather: Weather,
    unit: float,
    seeds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Average the drawing down and return the visible and the infrared image."""
    surface = cv2.resize(painter.surface, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    light = cv2.resize(painter.light, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    transmission = None
    if weather.extinction:
        distances = np.zeros(256)
        distances[1 : len(things) + 1] = [thing.distance for thing in things]
        owners = np.ascontiguousarray(painter.light[..., 3])
        transmission = fog_transmission(painter.camera, owners, distances, wall, weather.extinction)
        transmission = cv2.resize(transmission, size, interpolation=cv2.INTER_AREA)
    patches, glares = _find_lights(painter, things, weather)
    rng_visible, rng_infrared = map(np.random.default_rng, seeds)
    colour, glow = surface[..., :3], light[..., :3]
    visible = render_visible(colour, glow, transmission, patches, glares, weather, unit, rng_visible)
    return visible, render_infrared(surface[..., 3], weather, unit, rng_infrared)


def _find_lights(
    painter: Painter, things: Sequence[_Thing], weather: Weather
) -> tuple[list[LightPatch], list[tuple[float, float]]]:
    """Return the light patches below street lamps and in front of headlights, and the lights that blind the camera."""
    camera, patches, glares = painter.camera, [], []
    if weather.glare == "sun":
        y = 0.72 * camera.horizon
        places = [camera.centre + share * painter.width for share in (0.0, -0.12, 0.12, -0.24, 0.24)]
        free = [x for x in places if painter.light[int(y), int(x), 3] == 0]  # places where nothing covers the sun
        glares.append(((free or places)[0] / SUPERSAMPLING, y / SUPERSAMPLING))
    if not weather.dark:
        return patches, glares
    for thing in things:
        scale = camera.focal / thing.pose.z / SUPERSAMPLING
        if thing.label == "Lamp" and thing.size[2] > 0.5:  # street lamps light the street, traffic lights do not
            x, y = camera.project(np.array([thing.pose.x, 0.4, thing.pose.z])) / SUPERSAMPLING
            patches.append(LightPatch(float(x), float(y), 2.2 * scale, 1.1 * scale, 0.26))
        if thing.label in ("Car", "Bus", "Truck") and thing.running:
            ahead = thing.pose.place(np.array([[0.0, 0.0, 0.5 * thing.size[2] + 2.2]]))[0]
            if ahead[2] > 2.5:
                x, y = camera.project(ahead) / SUPERSAMPLING
                near = camera.focal / ahead[2] / SUPERSAMPLING
                patches.append(LightPatch(float(x), float(y), 1.2 * near, 0.4 * near, 0.3))
            if weather.glare and math.cos(thing.pose.yaw) < -0.9:
                lamps = np.array([(0.72 * side, 0.67, 0.5 * thing.size[2]) for side in (-1, 1)]) * (thing.size[0] / 1.8)
                for x, y in camera.project(thing.pose.place(lamps)):
                    inside = 0 <= x < painter.width and 0 <= y < painter.height
                    if inside and painter.light[int(y), int(x), 0] > 150:
                        glares.append((float(x) / SUPERSAMPLING, float(y) / SUPERSAMPLING))
    return patches, glares
