"""Table II of the FNet paper, to print beside our own numbers on the same data set.

Source: "l0-Regularized Sparse Coding-based Interpretable Network for Multi-Modal Image Fusion" (FNet),
arXiv 2411.04519, Table II: mAP@[0.5:0.95] on M3FD, YOLOv5, 3,800 training and 400 test images, one run each. The paper
gives neither its split nor the detector's size, image size and starting weights.
"""

SOURCE = "FNet, arXiv 2411.04519, Table II (YOLOv5, 3,800/400 images, split unpublished, one run)"

# M3FD's classes in the order in which the paper prints them.
CLASSES = ("People", "Car", "Truck", "Bus", "Lamp", "Motorcycle")

# The paper's rows; columns are CLASSES and Average.
TABLE2 = {
    "Visible": (0.473, 0.705, 0.777, 0.449, 0.564, 0.633, 0.600),
    "Infrared": (0.553, 0.660, 0.609, 0.470, 0.456, 0.600, 0.573),
    "AUIFNet": (0.546, 0.705, 0.729, 0.489, 0.573, 0.614, 0.610),
    "SwinFusion": (0.546, 0.703, 0.770, 0.503, 0.558, 0.604, 0.614),
    "U2Fusion": (0.552, 0.702, 0.745, 0.501, 0.566, 0.627, 0.615),
    "CoCoNet": (0.536, 0.700, 0.752, 0.523, 0.558, 0.586, 0.609),
    "LapH": (0.564, 0.706, 0.775, 0.474, 0.571, 0.621, 0.618),
    "MURF": (0.547, 0.695, 0.759, 0.499, 0.519, 0.619, 0.607),
    "LRRNet": (0.534, 0.703, 0.755, 0.480, 0.571, 0.602, 0.608),
    "CDDFuse": (0.544, 0.703, 0.773, 0.498, 0.555, 0.601, 0.612),
    "MDA": (0.480, 0.650, 0.719, 0.405, 0.490, 0.560, 0.551),
    "ITFuse": (0.539, 0.700, 0.733, 0.492, 0.557, 0.626, 0.608),
    "CrossFuse": (0.527, 0.705, 0.794, 0.470, 0.562, 0.626, 0.614),
    "EMMA": (0.541, 0.703, 0.767, 0.498, 0.558, 0.621, 0.615),
    "FNet": (0.554, 0.707, 0.755, 0.500, 0.572, 0.631, 0.620),
}


def paper_row(variant: str) -> dict[str, float]:
    """Return the paper's numbers for a variant by column (class or `Average`); empty where the paper has none.

    Names are compared without regard to case: our `fnet` is the paper's FNet.
    """
    for name, values in TABLE2.items():
        if name.casefold() == variant.casefold():
            return dict(zip((*CLASSES, "Average"), values, strict=True))
    return {}
