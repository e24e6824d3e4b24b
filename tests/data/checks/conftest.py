"""A data set with a fault of each kind."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.config import Config
from efficientdet_tf.data.checks.result import check_sets

SIZE = 64, 48


def make_image(seed: int) -> Image.Image:
    """Make an image of smooth random pixels, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


class CocoFolder:
    """COCO annotations and their images, written piece by piece."""

    BOX = [10, 10, 40, 30]

    def __init__(self, path):
        self.path = path
        self.images, self.annotations = [], []
        self.categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        path.mkdir(exist_ok=True)

    def add(self, name, *boxes, size=SIZE, category=1, image=None, **options):
        """Add an image of its own content, or a given one; `options` are those of `save`."""
        image_id = len(self.images) + 1
        entry = {"id": image_id, "file_name": name, "width": size[0], "height": size[1]}
        self.images.append(entry)
        for box in boxes or [self.BOX]:
            number = len(self.annotations) + 1
            entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box}
            self.annotations.append(entry)
        (image or make_image(zlib.crc32(name.encode()))).save(self.path / name, **options)
        return self.path / name

    def save(self, name="set.json"):
        """Write the annotation file."""
        names = ("images", "annotations", "categories")
        content = {name: getattr(self, name) for name in names}
        (self.path / name).write_text(json.dumps(content))
        return str(self.path / name)


@pytest.fixture
def folder(tmp_path):
    return CocoFolder(tmp_path / "set")


@pytest.fixture
def faults_of():
    """Function that checks annotation files: (kind, line without the folder) of each fault."""

    def check(train, val=None, settings=None):
        # Anchors of 4 to 40 pixels.
        small = {"model.image_size": 64, "model.max_level": 5, "anchors.scale": 0.5}
        config = Config().override(small | (settings or {}))
        annotations = {"train": data.read_annotations(train)}
        if val:
            annotations["val"] = data.read_annotations(val)
        folder = f"{Path(train).parent}/"
        found = check_sets(annotations, config).faults
        return [(fault.kind, fault.replace(folder, "")) for _, fault in found]

    return check


@pytest.fixture
def png_bomb() -> bytes:
    """The beginning of a PNG file of 20,000 x 20,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    end = b"IDAT" + zlib.compress(b"")
    chunks = (header, end)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in chunks
    )
