"""Classes without objects, and classes that are much rarer than the others."""

from efficientdet_tf.data.checks.checked_set import CheckedSet
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.data.statistics import count_objects

# Share of the mean number of objects per class below which a class is rare.
_RARE = 0.1


def class_balance(part: CheckedSet) -> list[Fault]:
    """Find the empty and the rare classes of a set, by the objects that training would use.

    Args:
      part: the checked set.

    Returns:
      A fault for each such class, in order of class index.
    """
    counts = count_objects(DetectionData(part.records, part.label_map, source=part.source))
    if not counts.any():
        return []
    mean = counts[counts > 0].mean()
    faults = []
    for name, count in zip(part.label_map.names, counts.tolist()):
        if count >= _RARE * mean:
            continue
        kind = "class_rare" if count else "class_empty"
        fact = f"has {count} objects" if count > 1 else "has 1 object" if count else "has no object"
        fact += f", where classes with objects have {mean:.0f} on average" if count else ""
        line = f"{part.source}: class {name!r}: {fact}"
        faults.append(Fault(kind, line, file=part.source, place=f"class {name!r}"))
    return faults
