"""A pinhole camera over a flat road, and a painter that draws both bands of an object with the same outline.

World coordinates are metres: x to the right, y up from the road, z away from the camera. Everything is drawn from back
to front as filled polygons at SUPERSAMPLING times the output size, and averaged down afterwards.
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import cv2
import numpy as np

RGB = tuple[float, float, float]
BLACK = (0.0, 0.0, 0.0)
# Drawn pixels per output pixel along each axis: 2 gives smooth edges; 3 is hardly better and twice as slow.
SUPERSAMPLING = 2
# Focal length in pixels of a 320x240 image: a horizontal field of view of 63 degrees; a car 10 m away is 47 px wide.
FOCAL = 260.0
# Points closer than this, in metres, are projected as if they were this far away.
NEAREST = 1.0
# Brightness of a face that is turned away from the light, as a fraction.
DIM_SIDE = 0.66
_SHIFT = 4  # fractional bits in the coordinates that OpenCV receives
_CIRCLE = np.stack([np.cos(np.arange(12) * math.pi / 6), np.sin(np.arange(12) * math.pi / 6)], axis=1)


@dataclass(frozen=True)
class Camera:
    """A level camera `height` metres above the road; `focal`, `centre` and `horizon` are in drawn pixels."""

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the projections of world points (..., 3), in drawn pixels (..., 2)."""
        scale = self.focal / np.maximum(points[..., 2], NEAREST)
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = self.centre + points[..., 0] * scale
        pixels[..., 1] = self.horizon + (self.height - points[..., 1]) * scale
        return pixels


@dataclass(frozen=True)
class Part:
    """One polygon of an object, in the object's own metres (x to its right, y up, z ahead of it).

    With a `normal` it is a flat face, drawn only if it faces the camera and shaded by the light's direction. Without
    one it is a rounded body: the convex hull of its points, each grown by its radius in metres.
    """

    points: np.ndarray  # (N, 3)
    colour: RGB  # reflected visible light, 0..255
    heat: float  # level in infrared, 0..255
    glow: RGB = BLACK  # emitted visible light, 0..255
    normal: tuple[float, float, float] | None = None
    radius: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Pose:
    """Position and direction of an object; `yaw` 0 faces away from the camera, pi towards it."""

    x: float
    z: float
    yaw: float = 0.0
    y: float = 0.0

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Rotate vectors (..., 3) from the object's directions to the world's."""
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        turned = np.empty(vectors.shape)
        turned[..., 0], turned[..., 1], turned[..., 2] = x * cosine + z * sine, y, z * cosine - x * sine
        return turned

    def place(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) from the object's coordinates to the world's."""
        return self.turn(points) + np.array([self.x, self.y, self.z])


class Painter:
    """Draws polygons on two canvases of four channels: reflected colour with heat, and glow with owner.

    The owner of a pixel is the number of the object seen there, 0 for the street itself.
    """

    def __init__(self, camera: Camera, width: int, height: int, sun: tuple[float, float, float]) -> None:
        self.camera, self.width, self.height = camera, width, height
        self.sun = np.asarray(sun) / np.linalg.norm(sun)
        self.surface = np.zeros((height, width, 4), np.uint8)  # red, green, blue, heat
        self.light = np.zeros((height, width, 4), np.uint8)  # red, green, blue of the glow, owner

    def copy(self) -> "Painter":
        """Return an independent painter with a copy of the canvases."""
        other = copy(self)
        other.surface, other.light = self.surface.copy(), self.light.copy()
        return other

    def fill(
        self, outlines: Sequence[np.ndarray] | np.ndarray, colour: RGB, heat: float, glow: RGB = BLACK, owner: int = 0
    ) -> None:
        """Fill polygons given in drawn pixels, each (N, 2); the polygons of one call must not overlap."""
        corners = [(outline * (1 << _SHIFT)).astype(np.int32) for outline in outlines]
        # OpenCV rounds and clips the four values of a pixel.
        cv2.fillPoly(self.surface, corners, (*colour, heat), shift=_SHIFT)
        cv2.fillPoly(self.light, corners, (*glow, owner), shift=_SHIFT)

    def fill_world(self, polygons: np.ndarray, colour: RGB, heat: float, glow: RGB = BLACK, owner: int = 0) -> None:
        """Fill polygons (M, N, 3) given in world coordinates."""
        if len(polygons):
            self.fill(self.camera.project(np.asarray(polygons, float)), colour, heat, glow, owner)

    def draw(self, groups: Sequence[Sequence[Part]], pose: Pose, owner: int = 0, warmer: float = 0.0) -> None:
        """Draw an object: its groups from the farthest to the nearest, the parts of a group in their order.

        `warmer` is added to the heat of all parts.
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
        # A face is visible if its normal points from the face towards the camera.
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
