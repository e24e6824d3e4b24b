"""COCO metrics, confusion matrix and per-image errors of a detector."""
