"""Faults of data sets as values."""

import copy
import pickle

import pytest

from efficientdet_tf.data.faults import Fault


@pytest.mark.parametrize("copied", [copy.copy, lambda fault: pickle.loads(pickle.dumps(fault))])
def test_a_copy_has_all_parts(copied):
    fault = Fault(
        *("box_outside", "a.json: annotation 7: bbox: outside; object ignored"),
        **{"file": "a.json", "place": "annotation 7", "field": "bbox", "image": "1.jpg"},
        **{"box": (1, 2, 3, 4.5), "other": "2.jpg"},
    )
    found = copied(fault)
    assert type(found) is Fault and found == fault and vars(found) == vars(fault)
