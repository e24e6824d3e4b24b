"""Images without annotations."""

import pytest

from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory) -> str:
    """Folder of five images, one of them in a folder inside, and a broken one."""
    folder = tmp_path_factory.mktemp("unlabeled")
    write_coco(digits.load("val", num_images=5), folder)
    (folder / "more").mkdir()
    (folder / "00001.jpg").rename(folder / "more" / "00001.jpg")
    (folder / "broken.jpg").write_bytes(b"nothing")
    return str(folder)
