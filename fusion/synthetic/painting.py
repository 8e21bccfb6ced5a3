"""A pinhole camera over a flat road, and a painter that draws both bands of a thing with the same outline.

World coordinates are metres: x to the right, y up from the road, z away from the camera. Everything is drawn back to
front as filled polygons at twice the wanted size, and averaged down afterwards.
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np

RGB = tuple[float, float, float]
BLACK = (0.0, 0.0, 0.0)
# Drawn pixels for each wanted pixel and axis: 2 gives smooth edges, 3 is hardly better and twice as slow.
SUPERSAMPLING = 2
# Focal length in pixels of a 320x240 image: a horizontal view of 63 degrees, so that a car 10 m away is 47 px wide.
FOCAL = 260.0
# Nothing is drawn closer than this, in metres.
NEAREST = 1.0
# Brightness of a face that is turned away from the light, as a fraction.
DIM_SIDE = 0.66
_SHIFT = 4  # binary digits after the point in the coordinates handed to OpenCV
_CIRCLE = np.stack([np.cos(np.arange(12) * math.pi / 6), np.sin(np.arange(12) * math.pi / 6)], axis=1)


@dataclass(frozen=True)
class Camera:
    """A level camera `height` metres above the road; `focal`, `centre` and `horizon` are drawn pixels."""

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return where the world points (..., 3) appear, in drawn pixels (..., 2)."""
        scale = self.focal / np.maximum(points[..., 2], NEAREST)
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = self.centre + points[..., 0] * scale
        pixels[..., 1] = self.horizon + (self.height - points[..., 1]) * scale
        return pixels


@dataclass(frozen=True)
class Part:
    """One polygon of a thing, in the thing's own metres (x to its right, y up, z ahead of it).

    With a `normal` it is a flat face, drawn where it looks at the camera and shaded by the light's direction; without
    one it is a rounded body: the convex hull of its points, each grown by its radius in metres.
    """

    points: np.ndarray  # (N, 3)
    colour: RGB  # what it reflects, 0..255
    heat: float  # what the infrared camera sees, 0..255
    glow: RGB = BLACK  # visible light that it sends out, 0..255
    normal: tuple[float, float, float] | None = None
    radius: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Pose:
    """Where a thing stands and which way it looks: `yaw` 0 is away from the camera, pi towards it."""

    x: float
    z: float
    yaw: float = 0.0
    y: float = 0.0

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Turn vectors (..., 3) of the thing into the world's directions."""
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        turned = np.empty(vectors.shape)
        turned[..., 0], turned[..., 1], turned[..., 2] = x * cosine + z * sine, y, z * cosine - x * sine
        return turned

    def place(self, points: np.ndarray) -> np.ndarray:
        """Move points (..., 3) of the thing into the world."""
        return self.turn(points) + np.array([self.x, self.y, self.z])


class Painter:
    """Draws polygons on two canvases of four channels: reflected colour and heat, and glow and owner.

    The owner of a pixel is the number of the thing seen there, 0 for the street itself.
    """

    def __init__(self, camera: Camera, width: int, height: int, sun: tuple[float, float, float]) -> None:
        self.camera, self.width, self.height = camera, width, height
        self.sun = np.asarray(sun) / np.linalg.norm(sun)
        self.surface = np.zeros((height, width, 4), np.uint8)  # red, green, blue, heat
        self.light = np.zeros((height, width, 4), np.uint8)  # red, green, blue of what glows, owner

    def copy(self) -> "Painter":
        """Return a painter that goes on from what has been painted so far."""
        other = copy(self)
        other.surface, other.light = self.surface.copy(), self.light.copy()
        return other

    def fill(
        self, outlines: Sequence[np.ndarray] | np.ndarray, colour: RGB, heat: float, glow: RGB = BLACK, owner: int = 0
    ) -> None:
        """Fill polygons given in drawn pixels, each (N, 2); those that overlap one another must not be in one call."""
        corners = [(outline * (1 << _SHIFT)).astype(np.int32) for outline in outlines]
        # OpenCV rounds and clips the four numbers of a pixel itself.
        cv2.fillPoly(self.surface, corners, (*colour, heat), shift=_SHIFT)
        cv2.fillPoly(self.light, corners, (*glow, owner), shift=_SHIFT)

    def fill_world(self, polygons: np.ndarray, colour: RGB, heat: float, glow: RGB = BLACK, owner: int = 0) -> None:
        """Fill polygons (M, N, 3) given in the world's metres."""
        if len(polygons):
            self.fill(self.camera.project(np.asarray(polygons, float)), colour, heat, glow, owner)

    def draw(self, groups: Sequence[Sequence[Part]], pose: Pose, owner: int = 0, warmer: float = 0.0) -> None:
        """Draw a thing: its groups from the farthest to the nearest, the parts of a group in their order.

        `warmer` is added to the heat of all its parts.
        """
        middles = [np.concatenate([part.points for part in group]).mean(axis=0) for group in groups]
        centres = pose.place(np.array(middles))
        order = np.argsort(-np.hypot(centres[:, 0], centres[:, 2]), kind="stable")
        parts = [part for number in order for part in groups[number]]
        ends = np.cumsum([len(part.points) for part in parts])
        starts = np.concatenate([[0], ends[:-1]])
        world = pose.place(np.concatenate([part.points for part in parts]))
        pixels = self.camera.project(world)
        scale = self.camera.focal / np.maximum(world[:, 2], NEAREST)
        normals = pose.turn(np.array([part.normal or (0.0, 0.0, 0.0) for part in parts]))
        # A face looks at the camera where its normal points from the face towards the camera.
        facing = (normals * (np.array([0.0, self.camera.height, 0.0]) - world[starts])).sum(axis=1) > 0
        shade = DIM_SIDE + (1.04 - DIM_SIDE) * np.maximum(normals @ self.sun, 0.0)
        for part, start, end, seen, light in zip(parts, starts, ends, facing, shade, strict=True):
            outline, colour = pixels[start:end], part.colour
            if part.normal is None:
                radius = scale[start:end] * part.radius
                if radius.any():
                    outline = (outline[:, None] + radius[:, None, None] * _CIRCLE).reshape(-1, 2)
                outline = cv2.convexHull(outline.astype(np.float32))[:, 0]
            elif not seen:
                continue
            else:
                colour = (light * colour[0], light * colour[1], light * colour[2])
            self.fill([outline], colour, part.heat + warmer, part.glow, owner)
