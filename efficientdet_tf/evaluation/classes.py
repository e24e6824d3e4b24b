"""Matching of a model's classes to those of a data set."""

import numpy as np

from efficientdet_tf.data.records import DataError, DetectionData, LabelMap


def match_classes(known: LabelMap, data: DetectionData) -> np.ndarray:
    """Match the model's classes to those of a data set.

    Classes are matched by name; ids only disambiguate equal names, because ids
    differ between formats.

    Args:
      known: classes of the model.
      data: data set; the model must have every class with objects that are not ignored.

    Returns:
      int [len(known)], the class index in the data set for each class index of the
      model, -1 for classes that the data set lacks.

    Raises:
      DataError: for the first class that the model lacks.
    """
    with_objects = {
        int(index) for record in data.records for index in record.classes[~record.is_ignored]
    }
    index_in_data = np.full(len(known), -1)
    for index, (id_, name) in enumerate(zip(data.label_map.ids, data.label_map.names)):
        same_name = [i for i, other in enumerate(known.names) if other == name]
        same_id = [i for i in same_name if known.ids[i] == id_]
        found = same_id or same_name
        if len(found) == 1:
            index_in_data[found[0]] = index
        elif index in with_objects:
            raise DataError(
                f"{data.source}: class {name!r} (id {id_}) is not a class of the model; "
                f"its classes: {_list_classes(known)}"
            )
    return index_in_data


def _list_classes(label_map: LabelMap) -> str:
    shown = [f"{name!r} (id {id_})" for id_, name in zip(label_map.ids, label_map.names)]
    rest = len(shown) - 5
    return ", ".join(shown[:5]) + (f" and {rest} more" if rest > 0 else "")
