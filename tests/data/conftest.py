"""Fixtures for the tests of the data formats."""

import json
import logging

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_image():
    """Write an image of the given width and height, and create its folder."""

    def write(path, width: int = 64, height: int = 48, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
        Image.fromarray(ramp.astype(np.uint8)).save(path, **options)
        return path

    return write


@pytest.fixture
def write_coco(tmp_path, write_image):
    """Write the annotations, and the two images into the folder "images"."""

    def write(values, folder="images"):
        write_image(tmp_path / folder / "a.jpg")
        write_image(tmp_path / folder / "b.png")
        path = tmp_path / "annotations" / "instances_val.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return str(path)

    return write


@pytest.fixture
def warnings_of(monkeypatch, caplog):
    """Function that returns the messages logged so far."""
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)

    def messages() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    return messages
