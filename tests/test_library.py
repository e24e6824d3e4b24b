"""What `import efficientdet_tf` gives."""

import subprocess
import sys

import pytest

import efficientdet_tf


@pytest.mark.parametrize("name", efficientdet_tf.__all__)
def test_each_name_is_there(name):
    assert callable(getattr(efficientdet_tf, name))
    assert name in dir(efficientdet_tf)


def test_another_name():
    with pytest.raises(AttributeError) as error:
        efficientdet_tf.Efficientdet  # noqa: B018
    assert str(error.value) == "module 'efficientdet_tf' has no attribute 'Efficientdet'"


def test_the_import_alone_waits_for_nothing():
    code = "import sys, efficientdet_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
