"""From the painted scene to the images of two cameras: light, fog, glare and noise in visible, heat in infrared."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fusion.synthetic.painting import Camera
from fusion.synthetic.weather import (
    INFRARED_GAIN,
    INFRARED_NOISE,
    INFRARED_PATTERN,
    VISIBLE_NOISE,
    Weather,
)

# Brightness of lamps and headlights by condition: by day they hardly matter.
GLOW_GAIN = {"day": 0.35, "night": 1.0, "fog": 0.9, "glare": 1.0}
LAMPLIGHT = (1.0, 0.9, 0.7)
# Strength of the glare's disc and veil; 1 washes out about a third of the image.
GLARE_STRENGTH = (0.8, 1.15)


@dataclass(frozen=True)
class LightPatch:
    """A patch of light on the street, in pixels of the output, with its half axes and its brightness as a factor."""

    x: float
    y: float
    wide: float
    tall: float
    light: float


def fog_transmission(
    camera: Camera, owners: np.ndarray, distances: np.ndarray, wall: float, extinction: float
) -> np.ndarray:
    """Return the share of light that fog lets through at each drawn pixel, float32 (H, W).

    The distance of an object's pixels is the value of `distances` (256,) at its owner number. The distance of the
    street's pixels is that of the ground or of the house fronts, which are `wall` metres from the middle.
    """
    height, width = owners.shape
    down = np.maximum(np.arange(height, dtype=np.float32) - camera.horizon, 1e-3)[:, None]
    across = np.maximum(np.abs(np.arange(width, dtype=np.float32) - camera.centre), 1e-3)[None]
    street = np.maximum(down / camera.height, across / wall)  # drawn pixels per metre
    clear = np.exp(-extinction * camera.focal / street)
    things = cv2.LUT(owners, np.exp(-extinction * distances).astype(np.float32))
    return np.where(owners > 0, things, clear)


def render_visible(
    colour: np.ndarray,
    glow: np.ndarray,
    transmission: np.ndarray | None,
    patches: list[LightPatch],
    glares: list[tuple[float, float]],
    weather: Weather,
    unit: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the visible image, uint8 (H, W, 3) RGB.

    `colour` and `glow` are float32 (H, W, 3) in 0..255, `transmission` is the share of light that fog lets through
    (H, W), `glares` are the pixels (x, y) of blinding lights, `unit` is the number of pixels per pixel of a 320x240
    image.
    """
    height, width = colour.shape[:2]
    size = (width, height)
    texture = cv2.resize(rng.standard_normal((height // 6 + 2, width // 6 + 2), np.float32), size)
    rough = np.clip(np.linspace(-1.0, 3.0, height, dtype=np.float32), 0.0, 1.0)[:, None]  # the sky is smooth
    texture = 1.0 + rough * (0.035 * texture + 0.03 * rng.standard_normal((height, width), np.float32))
    if patches:
        lit = np.zeros((height, width), np.float32)
        rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
        for patch in patches:
            down = np.exp(-0.5 * ((rows - patch.y) / patch.tall) ** 2)
            across = ((columns - patch.x) / patch.wide) ** 2
            lit += patch.light * down * np.exp(-0.5 * across)
        light = np.array(weather.ambient, np.float32) + lit[..., None] * np.array(LAMPLIGHT, np.float32)
        image = colour * (light * texture[..., None])
    else:
        image = colour * texture[..., None] * np.array(weather.ambient, np.float32)
    shine = glow * np.float32(GLOW_GAIN[weather.condition])
    if transmission is not None:
        air = np.array(weather.sky_low, np.float32)
        image = air + (image - air) * transmission[..., None]
        shine *= np.sqrt(transmission)[..., None]
    image = np.maximum(image, 1.25 * shine)
    if weather.condition != "day":
        image += _bloom(np.maximum(shine - 60.0, 0.0), unit, 1.6 if weather.condition == "fog" else 1.0)
    for x, y in glares:
        image = _dazzle(image, x, y, unit, weather, rng)
    image += VISIBLE_NOISE[weather.condition] * rng.standard_normal((height, width, 3), np.float32)
    return cv2.convertScaleAbs(np.maximum(image, 0.0))


def render_infrared(heat: np.ndarray, weather: Weather, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Return the infrared image, uint8 (H, W), of the painted heat, float32 (H, W) in 0..255."""
    height, width = heat.shape
    coarse = cv2.resize(rng.standard_normal((height // 8 + 2, width // 8 + 2), np.float32), (width, height))
    image = heat + 1.2 * coarse
    if weather.contrast < 1.0:
        haze = 0.7 * float(heat.mean()) + 0.3 * cv2.blur(heat, (max(3, int(24 * unit)) | 1,) * 2)
        image = haze + (image - haze) * weather.contrast
    image = cv2.GaussianBlur(image, (0, 0), max(0.4, 0.7 * unit))
    across = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    gain = rng.uniform(*INFRARED_GAIN)
    image = (image * gain + rng.uniform(-4, 10)) * (1.0 - 0.07 * (across + down))
    image += INFRARED_PATTERN * rng.standard_normal((1, width), np.float32)
    image += 0.5 * INFRARED_PATTERN * rng.standard_normal((height, 1), np.float32)
    image += INFRARED_NOISE * rng.standard_normal((height, width), np.float32)
    return cv2.convertScaleAbs(np.maximum(image, 0.0))


def _bloom(shine: np.ndarray, unit: float, strength: float) -> np.ndarray:
    """Return the light scattered around glowing pixels, the sum of a narrow and a wide halo."""
    height, width = shine.shape[:2]
    small = cv2.resize(shine, (max(8, width // 4), max(8, height // 4)), interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), max(0.6, 1.1 * unit))
    far = cv2.GaussianBlur(small, (0, 0), max(1.5, 5.0 * unit))
    return cv2.resize(strength * (1.1 * near + 2.2 * far), (width, height))


def _dazzle(
    image: np.ndarray, x: float, y: float, unit: float, weather: Weather, rng: np.random.Generator
) -> np.ndarray:
    """Return the image with a blinding light: an overexposed disc, a veil over the image and faint rays."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height, dtype=np.float32)[:, None] - y, np.arange(width, dtype=np.float32)[None] - x
    far = np.hypot(rows, columns) / unit
    strength = rng.uniform(*GLARE_STRENGTH)
    sun = weather.glare == "sun"
    disc, veil = (22.0, 95.0) if sun else (9.0, 48.0)
    rays = 1.0 + 0.35 * np.cos(6 * np.arctan2(rows, columns) + rng.uniform(0, math.pi)) ** 8
    spill = strength * (420.0 / (1.0 + (far / disc) ** 2.6) + 110.0 * rays * np.exp(-far / veil))
    streak = strength * 90.0 * np.exp(-np.abs(rows) / (1.6 * unit)) * np.exp(-np.abs(columns) / (70.0 * unit))
    colour = np.array([1.0, 0.9, 0.72] if sun else [1.0, 0.98, 0.92], np.float32)
    # The veil also raises the black level. An exposure meter would darken the rest; the ambient light accounts for it.
    return image + (spill + streak)[..., None] * colour
