"""Smallest COCO annotation file with every kind of object."""


def content() -> dict:
    """Return new entries of two images, with sparse ids out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 5, "name": "early"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20, 30], "area": 123.5},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 5, "bbox": [60, 40, 10, 10]},
        ],
    }
