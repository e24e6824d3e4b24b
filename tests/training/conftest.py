"""Images without annotations; graphs as they were traced."""

import pytest
import tensorflow as tf

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


@pytest.fixture(scope="module", autouse=True)
def _graphs_are_run_as_traced(request):
    """Run a file's graphs without TensorFlow's optimisation, most of a tiny step's first second.

    Commands run in processes of their own, and files marked `optimized_graphs`, have it.
    """
    is_off = request.node.get_closest_marker("optimized_graphs") is None
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": is_off})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
