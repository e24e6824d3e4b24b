"""Drawing of boxes and precision-recall curves."""
