"""Code that several methods share: loading weights, running networks, layers, padding, VGG features, schedules."""
