"""Pretrained weights: published detectors, ImageNet backbones, and their registry."""
