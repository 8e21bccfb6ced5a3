"""Object detection: datasets, splits, training and testing of the detector, average precision, statistics.

datasets, boxes            layouts and labels of the datasets; audit reports on them
scenes, splits, leakage    scenes of the images, training and test split, and test images similar to training images
prepare, labelled_split    write the split, the ground truth and the scenes that all later stages read
variant                    the images and labels of one variant, as the detector sees them
train, loop, recipe        training; images and detector define its input and its network
static_loss                the loss of a YOLO on a GPU, with static shapes
inside                     detectors that take both bands and fuse them inside the network
device_images              training images kept and augmented on the GPU
gpu_sharing, trial         several trainings on one GPU, and how many are worthwhile
test, late                 detections and average precision of one detector, or of the pooled boxes of both bands
external, as_is            detections made elsewhere, and detectors trained elsewhere
predictions, average_precision   read and score detections, whichever detector made them
matching                   the confusion matrix, and the objects found, at one score and one overlap
comparison, accumulation, intervals, differences, significance   the statistics of Table II, over whole scenes
objects, errors            objects that each variant finds and misses; the kinds of error it makes
"""

import pipeline  # noqa: F401 - must be imported before torch: see pipeline/__init__.py
