"""Weights: published, of ImageNet, and by name."""
