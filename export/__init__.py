"""Export of a trained detector to SavedModel and TFLite."""
