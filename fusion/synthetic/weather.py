"""The four conditions: the light, the range of sight, and the temperature of everything.

Heat is the grey level of an ideal infrared image, 0..255, before blur, noise and the camera's gain.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusion.synthetic.painting import RGB

CONDITIONS = ("day", "night", "fog", "glare")

# Light on unlit surfaces at night as a fraction of day: 0.05 hides people completely, 0.3 shows them as on an overcast
# day.
NIGHT_LIGHT = (0.07, 0.14)
# Metres at which fog leaves a third of the visible contrast: smaller values hide more in the visible image.
FOG_RANGE = (5.0, 10.0)
# Share of the infrared contrast that fog leaves: at 1, fog does not affect infrared.
FOG_INFRARED_CONTRAST = (0.6, 0.75)
# Grey levels by which people's clothes exceed the road, and bare skin exceeds the clothes: smaller values make people
# harder to find in infrared.
PEOPLE_WARMTH = {"day": (40.0, 58.0), "night": (80.0, 105.0), "fog": (85.0, 110.0), "glare": (55.0, 80.0)}
SKIN_WARMTH = 26.0
# Grey levels by which a running engine and its bodywork exceed the road, and by which a parked vehicle differs from the
# road in either direction: a smaller last value hides parked vehicles in infrared completely.
ENGINE_WARMTH = (85.0, 125.0)
RUNNING_WARMTH = (5.0, 20.0)
PARKED_WARMTH = 9.0
# Standard deviations of noise in grey levels: of the visible sensor by condition, of the infrared sensor in time and as
# a fixed pattern.
VISIBLE_NOISE = {"day": 2.5, "night": 6.0, "fog": 3.0, "glare": 4.0}
INFRARED_NOISE, INFRARED_PATTERN = 2.5, 1.2
# Gain of the infrared camera: values below 1 lower the contrast.
INFRARED_GAIN = (0.92, 1.12)


@dataclass(frozen=True)
class Weather:
    """The light and the temperatures of one scene."""

    condition: str
    glare: Literal["sun", "headlights"] | None
    dark: bool  # the sun is down, lamps and headlights are on
    sun: tuple[float, float, float]  # direction towards the light
    ambient: RGB  # factor on what surfaces reflect
    sky_top: RGB
    sky_low: RGB
    extinction: float  # of visible light per metre; 0 is clear air
    heat: dict[str, float]
    contrast: float  # share of the infrared contrast that the air leaves


def choose_weather(condition: str, rng: np.random.Generator) -> Weather:
    """Draw the light and the temperatures of a scene of this condition."""
    glare = str(rng.choice(["sun", "headlights"])) if condition == "glare" else None
    dark = condition == "night" or glare == "headlights"
    side = float(rng.choice([-1.0, 1.0]))
    extinction, contrast = 0.0, 1.0
    if dark:
        light = rng.uniform(*NIGHT_LIGHT)
        ambient = (0.85 * light, 0.95 * light, 1.25 * light)
        sky_top, sky_low = (7.0, 9.0, 18.0), (24.0, 26.0, 38.0)
        road, sky = rng.uniform(72, 88), (12.0, 38.0)
    elif condition == "fog":
        light = rng.uniform(0.62, 0.8)
        ambient = (light, light, 1.03 * light)
        grey = rng.uniform(165, 190)
        sky_top, sky_low = (grey - 8, grey - 4, grey), (grey, grey, grey)
        extinction, contrast = 1.1 / rng.uniform(*FOG_RANGE), rng.uniform(*FOG_INFRARED_CONTRAST)
        road, sky = rng.uniform(84, 98), (58.0, 76.0)
    elif glare == "sun":
        ambient = (0.72, 0.62, 0.52)
        sky_top, sky_low = (120.0, 140.0, 175.0), (250.0, 214.0, 160.0)
        road, sky = rng.uniform(98, 112), (28.0, 64.0)
    else:
        light, cloudy = rng.uniform(0.85, 1.08), rng.random() < 0.4
        ambient = (light, light, 0.98 * light)
        sky_top = (158.0, 168.0, 182.0) if cloudy else (86.0, 136.0, 205.0)
        sky_low = (200.0, 205.0, 212.0) if cloudy else (188.0, 212.0, 236.0)
        road, sky = rng.uniform(108, 126), ((50.0, 78.0) if cloudy else (22.0, 58.0))
    cloth = road + rng.uniform(*PEOPLE_WARMTH[condition])
    sun = (0.8 * side, 0.9, -0.5) if not glare else (0.3 * side, 1.0, 0.1)
    heat = {
        "sky_top": sky[0],
        "sky_low": sky[1],
        "road": road,
        "pavement": road - (rng.uniform(2, 8) if not dark else rng.uniform(4, 12)),
        "verge": road - rng.uniform(10, 20),
        "building": road + (rng.uniform(-14, 10) if not dark else rng.uniform(-8, 22)),
        "tree": road - rng.uniform(14, 26),
        "metal": sky[1] + 20.0,  # bare metal mirrors the cold sky
        "cloth": cloth,
        "skin": cloth + SKIN_WARMTH,
        "engine": road + rng.uniform(*ENGINE_WARMTH),
    }
    return Weather(condition, glare, dark, sun, ambient, sky_top, sky_low, extinction, heat, contrast)
