"""What several methods share: filling a network, running it, its layers and borders, VGG features, schedules."""
