"""COCO metrics, confusion and errors of a detector."""
