"""Drawing of boxes, curves and feature networks, and the elements of pages."""
