"""Tables I to III of the FNet paper, printed next to our own numbers on the same data.

Source: "l0-Regularized Sparse Coding-based Interpretable Network for Multi-Modal Image Fusion" (FNet),
arXiv 2411.04519.

Table I: MI, VIF, Qabf, SSIM on six test sets, and the cost at 320x320. Table III: ablations of FNet. Table II:
mAP@[0.5:0.95] on M3FD, YOLOv5, 3,800 training and 400 test images, one run each. The paper does not state its split,
nor the detector's size, image size and starting weights.
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

# Table I. The FLOPs of most methods are multiply-adds; FNet's count neither multiply-adds nor FLOPs (see GFLOPS_NOTE).
# Runtimes were measured on the authors' GPU.
TABLE1_SOURCE = "FNet, arXiv 2411.04519, Table I"
TABLE1_METHODS = (
    "AUIFNet", "SwinFusion", "U2Fusion", "CoCoNet", "LapH", "MURF", "LRRNet", "CDDFuse",
    "MDA", "ITFuse", "CrossFuse", "EMMA", "FNet",
)  # fmt: skip
TABLE1 = {
    ("", "Params (K)"): (12, 974, 659, 6845, 134, 116, 49, 1188, 516, 82, 23154, 1518, 420),
    ("", "MACs (G)"): (4.83, 117.53, 135.06, 66.79, 3.16, 184.36, 5.19, 184.56, 51.66, 8.42, 55.86, 13.89, 0.33),
    ("", "Runtime (s)"): (0.023, 0.728, 0.019, 0.010, 0.028, 0.155, 0.051, 0.096, 0.017, 0.032, 0.925, 0.041, 0.051),
    ("TNO", "MI"): (1.58, 2.26, 1.37, 1.54, 1.30, 1.40, 1.76, 2.19, 1.40, 1.52, 2.18, 2.12, 2.57),
    ("TNO", "VIF"): (0.61, 0.75, 0.58, 0.64, 0.63, 0.50, 0.54, 0.77, 0.37, 0.45, 0.73, 0.70, 0.80),
    ("TNO", "Qabf"): (0.43, 0.53, 0.44, 0.32, 0.44, 0.38, 0.37, 0.54, 0.15, 0.21, 0.46, 0.49, 0.57),
    ("TNO", "SSIM"): (0.93, 1.04, 0.99, 0.72, 0.85, 0.98, 0.84, 1.03, 0.48, 0.78, 0.90, 0.97, 1.05),
    ("RoadScene", "MI"): (1.96, 2.34, 1.87, 1.83, 1.88, 1.86, 1.99, 2.30, 1.73, 1.80, 2.32, 2.27, 2.56),
    ("RoadScene", "VIF"): (0.64, 0.67, 0.60, 0.57, 0.66, 0.55, 0.49, 0.69, 0.44, 0.43, 0.60, 0.66, 0.70),
    ("RoadScene", "Qabf"): (0.51, 0.49, 0.51, 0.37, 0.50, 0.47, 0.35, 0.52, 0.20, 0.21, 0.37, 0.47, 0.51),
    ("RoadScene", "SSIM"): (0.96, 0.99, 0.97, 0.74, 0.87, 0.96, 0.64, 0.98, 0.65, 0.68, 0.73, 0.91, 1.01),
    ("NIR", "MI"): (2.23, 2.14, 1.91, 1.90, 1.87, 1.73, 2.11, 2.28, 1.69, 2.14, 2.21, 2.20, 2.09),
    ("NIR", "VIF"): (0.61, 0.62, 0.53, 0.52, 0.60, 0.45, 0.49, 0.64, 0.23, 0.46, 0.64, 0.60, 0.63),
    ("NIR", "Qabf"): (0.38, 0.42, 0.40, 0.26, 0.38, 0.33, 0.35, 0.44, 0.05, 0.20, 0.45, 0.42, 0.45),
    ("NIR", "SSIM"): (1.11, 1.16, 1.19, 0.83, 0.95, 1.00, 0.97, 1.21, 0.36, 0.98, 1.14, 1.13, 1.20),
    ("MRI_CT", "MI"): (2.36, 2.26, 2.08, 2.15, 1.99, 2.10, 2.12, 2.26, 2.09, 2.15, 2.30, 2.27, 2.23),
    ("MRI_CT", "VIF"): (0.41, 0.56, 0.37, 0.39, 0.44, 0.38, 0.38, 0.50, 0.36, 0.39, 0.48, 0.49, 0.57),
    ("MRI_CT", "Qabf"): (0.48, 0.58, 0.46, 0.44, 0.52, 0.36, 0.34, 0.60, 0.14, 0.16, 0.37, 0.55, 0.59),
    ("MRI_CT", "SSIM"): (0.46, 1.34, 0.49, 0.44, 0.86, 0.48, 0.37, 1.34, 0.31, 0.39, 0.39, 0.97, 1.34),
    ("MRI_PET", "MI"): (1.84, 1.96, 1.69, 1.60, 1.81, 1.57, 1.56, 1.88, 1.61, 1.65, 1.82, 1.75, 1.97),
    ("MRI_PET", "VIF"): (0.37, 0.70, 0.40, 0.41, 0.52, 0.45, 0.37, 0.63, 0.48, 0.49, 0.59, 0.59, 0.71),
    ("MRI_PET", "Qabf"): (0.31, 0.64, 0.49, 0.47, 0.57, 0.16, 0.21, 0.65, 0.16, 0.20, 0.34, 0.57, 0.66),
    ("MRI_PET", "SSIM"): (0.29, 1.48, 1.39, 0.34, 0.77, 0.33, 0.22, 1.47, 0.27, 0.35, 0.36, 0.97, 1.50),
    ("MRI_SPECT", "MI"): (1.81, 1.94, 1.68, 1.67, 1.76, 1.73, 1.63, 1.86, 1.67, 1.75, 1.80, 1.83, 1.91),
    ("MRI_SPECT", "VIF"): (0.39, 0.61, 0.48, 0.44, 0.57, 0.50, 0.34, 0.60, 0.44, 0.47, 0.58, 0.55, 0.63),
    ("MRI_SPECT", "Qabf"): (0.32, 0.62, 0.57, 0.44, 0.60, 0.24, 0.20, 0.65, 0.12, 0.18, 0.29, 0.58, 0.66),
    ("MRI_SPECT", "SSIM"): (0.27, 1.49, 1.41, 0.29, 0.75, 0.32, 0.21, 1.48, 0.19, 0.32, 0.33, 0.66, 1.49),
}  # fmt: skip

GFLOPS_NOTE = (
    "The paper's 0.33 GFLOPs of FNet at 320x320 are an artefact of counting: the profiler that its authors import has"
    " no rule for convolutions whose padding is called 'same' and skips them, so that 0.33 G counts only element-wise"
    " products. Each of the 419,904 kernel weights is used once per pixel: 43.0 G multiply-adds, 86.0 GFLOP. MDA's "
    "51.66 results if a transposed convolution is counted once per output pixel, which is four times its "
    "multiplications, and the six that double the infrared maps are counted twice."
)

# Table III, with our names of its columns: with LCSC, without IFNet (stage I), without a term of the loss, full FNet.
TABLE3_SOURCE = "FNet, arXiv 2411.04519, Table III"
TABLE3_METHODS = ("lcsc", "without_ifnet", "without_intensity", "without_gradient", "without_ssim", "full")
TABLE3 = {
    ("TNO", "MI"): (2.35, 2.22, 1.83, 2.38, 1.67, 2.57),
    ("TNO", "VIF"): (0.78, 0.76, 0.70, 0.74, 0.64, 0.80),
    ("TNO", "Qabf"): (0.55, 0.54, 0.52, 0.51, 0.48, 0.57),
    ("TNO", "SSIM"): (1.05, 1.04, 1.03, 1.03, 1.01, 1.05),
    ("RoadScene", "MI"): (2.38, 2.34, 1.99, 2.50, 1.98, 2.56),
    ("RoadScene", "VIF"): (0.67, 0.66, 0.62, 0.67, 0.62, 0.70),
    ("RoadScene", "Qabf"): (0.49, 0.50, 0.50, 0.42, 0.49, 0.51),
    ("RoadScene", "SSIM"): (1.01, 1.01, 0.97, 0.96, 0.93, 1.01),
    ("NIR", "MI"): (2.07, 2.02, 2.08, 2.20, 2.01, 2.09),
    ("NIR", "VIF"): (0.62, 0.61, 0.62, 0.65, 0.59, 0.63),
    ("NIR", "Qabf"): (0.44, 0.43, 0.45, 0.47, 0.41, 0.45),
    ("NIR", "SSIM"): (1.20, 1.18, 1.19, 1.21, 1.14, 1.20),
    ("MRI_CT", "MI"): (2.22, 2.18, 2.14, 2.30, 2.12, 2.23),
    ("MRI_CT", "VIF"): (0.55, 0.53, 0.50, 0.63, 0.50, 0.57),
    ("MRI_CT", "Qabf"): (0.58, 0.58, 0.58, 0.49, 0.57, 0.59),
    ("MRI_CT", "SSIM"): (1.28, 1.32, 1.34, 1.29, 1.28, 1.34),
    ("MRI_PET", "MI"): (1.88, 1.91, 1.84, 1.89, 1.84, 1.97),
    ("MRI_PET", "VIF"): (0.66, 0.67, 0.59, 0.70, 0.58, 0.71),
    ("MRI_PET", "Qabf"): (0.64, 0.65, 0.63, 0.41, 0.63, 0.66),
    ("MRI_PET", "SSIM"): (1.40, 1.49, 1.48, 1.38, 1.48, 1.50),
    ("MRI_SPECT", "MI"): (1.87, 1.86, 1.78, 1.83, 1.85, 1.91),
    ("MRI_SPECT", "VIF"): (0.62, 0.62, 0.59, 0.57, 0.63, 0.63),
    ("MRI_SPECT", "Qabf"): (0.64, 0.66, 0.67, 0.27, 0.70, 0.66),
    ("MRI_SPECT", "SSIM"): (1.46, 1.49, 1.48, 1.42, 1.49, 1.49),
}


def paper_column(table: str, column: str) -> dict[tuple[str, str], float]:
    """Return a column of `table1` or `table3` by (dataset, quantity); empty if the paper has no such column.

    The first three quantities of Table I belong to no dataset (""). Names are compared without regard to case.
    """
    rows, columns = (TABLE1, TABLE1_METHODS) if table == "table1" else (TABLE3, TABLE3_METHODS)
    for index, name in enumerate(columns):
        if name.casefold() == column.casefold():
            return {row: values[index] for row, values in rows.items()}
    return {}


def paper_row(variant: str) -> dict[str, float]:
    """Return the paper's numbers for a variant by column (class or `Average`); empty if the paper has none.

    Names are compared without regard to case: our `fnet` is the paper's FNet.
    """
    for name, values in TABLE2.items():
        if name.casefold() == variant.casefold():
            return dict(zip((*CLASSES, "Average"), values, strict=True))
    return {}
