"""Images with boxes, and charts."""
