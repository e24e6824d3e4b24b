"""Keras layers of detectors, independent of configs, data sets and training."""
