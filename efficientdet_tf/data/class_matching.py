"""Matching of a model's classes to those of a data set."""

import dataclasses

import numpy as np

from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap


def match_classes(known: LabelMap, data: DetectionData, owner: str = "the model") -> np.ndarray:
    """Match the model's classes to those of a data set.

    Classes are matched by name; ids only disambiguate equal names, because ids
    differ between formats.

    Args:
      known: classes of the model.
      data: data set; the model must have every class with objects that are not ignored.
      owner: what the message calls the model. Default "the model".

    Returns:
      int [len(known)], the class index in the data set for each class index of the
      model, -1 for classes that the data set lacks.

    Raises:
      DataError: for the first class that the model lacks.
    """
    records = RecordColumns.build(data.records)
    with_objects = set(np.unique(records.classes[~records.is_ignored]).tolist())
    index_in_data = np.full(len(known), -1)
    for index, (id_, name) in enumerate(zip(data.label_map.ids, data.label_map.names)):
        same_name = [i for i, other in enumerate(known.names) if other == name]
        same_id = [i for i in same_name if known.ids[i] == id_]
        found = same_id or same_name
        if len(found) == 1:
            index_in_data[found[0]] = index
        elif index in with_objects:
            raise DataError(
                f"{data.source}: class {name!r} (id {id_}) is not a class of {owner}; "
                f"its classes: {_list_classes(known)}"
            )
    return index_in_data


def with_classes(known: LabelMap, data: DetectionData, owner: str = "the model") -> DetectionData:
    """Return a data set with the classes of a model, matched as by `match_classes`.

    Args:
      known, data, owner: see `match_classes`.

    Raises:
      DataError: for the first class with objects that the model lacks.
    """
    if data.label_map == known:
        return data
    index_in_data = match_classes(known, data, owner)
    # The last value is that of ignored objects, whose class is -1.
    index_in_model = np.full(len(data.label_map) + 1, -1, np.int32)
    matched = np.flatnonzero(index_in_data >= 0)
    index_in_model[index_in_data[matched]] = matched
    records = RecordColumns.build(data.records)
    records = dataclasses.replace(records, classes=index_in_model[records.classes])
    return dataclasses.replace(data, records=records, label_map=known)


def _list_classes(label_map: LabelMap) -> str:
    shown = [f"{name!r} (id {id_})" for id_, name in zip(label_map.ids, label_map.names)]
    rest = len(shown) - 5
    return ", ".join(shown[:5]) + (f" and {rest} more" if rest > 0 else "")
