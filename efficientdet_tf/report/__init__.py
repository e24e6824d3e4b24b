"""A run as one page, `report.html`, that needs no other file."""
