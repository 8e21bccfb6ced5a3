"""Object detection: data sets, splits, training and testing of the detector, average precision, statistics.

datasets, boxes            layouts and labels of data sets; audit reports on them
scenes, splits, leakage    which images belong together, which are tested, what training has seen of them
prepare                    writes the split, the truth and the scenes that all later stages read
variant                    what the detector sees: the images and labels of one variant
train, loop, recipe        the training; images and detector are what it trains on and with
static_loss                the loss of a YOLO on a GPU, without waiting for it
inside                     detectors that are given both bands and fuse them themselves
device_images              the images on the device that trains, augmented there
side_by_side, trial        several trainings on one GPU, and how many pay
test, late                 detections and average precision, of one detector or of both bands' pooled boxes
brought, as_is             results of detectors that were trained elsewhere, and such detectors themselves
predictions, average_precision   detections are read and scored here, whoever wrote them
accumulation, intervals, differences, significance   the statistics of Table II, by whole scenes
objects, errors            which objects each variant found and missed; what kind of mistakes it makes
"""

import pipeline  # noqa: F401 - before torch is imported, see there
