"""Object detection: data sets, splits, training and testing of the detector, average precision."""
