"""Synthetic road scenes: aligned visible-infrared pairs with boxes of six classes, in M3FD's layout.

Each scene follows from the seed and its index alone. `scene` places things and finds their boxes, `shapes` and
`street` describe them, `painting` draws both bands with one outline, `weather` and `bands` make two images of it.
"""

from fusion.synthetic.scene import CLASSES, Box, Scene, make_scene
from fusion.synthetic.weather import CONDITIONS

__all__ = ["CLASSES", "CONDITIONS", "Box", "Scene", "make_scene"]

REVISION = 1  # raise when the same options would draw other pixels or boxes
