"""Keras layers of detectors, which know nothing of configs, data sets or training."""
