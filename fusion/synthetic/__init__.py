"""Synthetic road scenes: aligned visible-infrared pairs with boxes of six classes, in M3FD's layout.

Each generated pair depends only on the seed and its index. `scene` places objects and finds their boxes; `shapes`,
`vehicles` and `street` describe them; `painting` draws both bands with the same outlines; `weather` and `bands` turn
the drawing into two images.
"""

from fusion.synthetic.scene import CLASSES, Box, Scene, make_scene
from fusion.synthetic.weather import CONDITIONS

__all__ = ["CLASSES", "CONDITIONS", "Box", "Scene", "make_scene"]

REVISION = 1  # raise when the same options would give different pixels or boxes
