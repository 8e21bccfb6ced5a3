"""What several methods share: borders, attention blocks, VGG features, a network run on one pair."""
