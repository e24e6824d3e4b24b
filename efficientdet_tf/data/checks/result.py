"""Result of the check of one or both splits, and its JSON."""

import collections
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from efficientdet_tf.config import Config
from efficientdet_tf.data import input_size
from efficientdet_tf.data.annotations import Annotations
from efficientdet_tf.data.checks.between_images import repeated_images
from efficientdet_tf.data.checks.checked_set import CheckedSet, check_set
from efficientdet_tf.data.checks.class_balance import class_balance
from efficientdet_tf.data.checks.small_boxes import small_boxes
from efficientdet_tf.data.checks.unlisted_files import unlisted_files
from efficientdet_tf.data.class_matching import match_classes
from efficientdet_tf.data.faults import KINDS, SEVERITIES, Fault
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.output_files import MARK


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """Faults of all checked sets.

    Attributes:
      sets: the checked sets, the training set first.
      faults: (split, fault) of every fault, by kind in the order of `KINDS`; the split is ""
        for files that belong to no set.
    """

    sets: Sequence[CheckedSet]
    faults: Sequence[tuple[str, Fault]]

    def extended(self, faults: Sequence[tuple[str, Fault]]) -> "CheckResult":
        """Return the result with further faults, each (split, fault)."""
        order = {kind: position for position, kind in enumerate(KINDS)}
        every = sorted([*self.faults, *faults], key=lambda pair: order[pair[1].kind])
        return CheckResult(self.sets, every)

    def counts(self) -> dict[str, int]:
        """Number of faults of each kind that occurs, errors first, in the order of `KINDS`."""
        counts = collections.Counter(fault.kind for _, fault in self.faults)
        kinds = sorted(KINDS, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))
        return {kind: counts[kind] for kind in kinds if counts[kind]}

    def severities(self) -> dict[str, int]:
        """Number of faults of each severity, all of `SEVERITIES`."""
        counts = collections.Counter(fault.severity for _, fault in self.faults)
        return {severity: counts[severity] for severity in SEVERITIES}

    def to_json(self) -> str:
        """Serialise: sets, counts by kind, and every fault.

        Boxes are [ymin, xmin, ymax, xmax] in pixels as annotated, null where a number is
        not finite.
        """
        content = {
            "info": {"description": MARK},
            "sets": [
                {
                    "split": part.split,
                    "source": part.source,
                    "images": len(part.images),
                    "usable_images": sum(each.record is not None for each in part.images),
                    "objects": part.num_objects,
                }
                for part in self.sets
            ],
            "counts": self.counts(),
            "faults": [_entry(split, fault) for split, fault in self.faults],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        # Names of files and classes may hold what is not UTF-8.
        return text.encode("utf-8", "replace").decode()


def check_sets(annotations: dict[str, Annotations], config: Config) -> CheckResult:
    """Check the sets of all splits, and what they share.

    Args:
      annotations: the annotations of each split, "train" first.
      config: config with the network's input size, which may be `auto`, and the anchors.
    """
    use_difficult = config.data.use_difficult
    sets = [check_set(each, split, use_difficult) for split, each in annotations.items()]
    config, _ = input_size.resolve(config, sets[0].records)
    repeated = repeated_images(sets)
    found = [
        (part.split, fault)
        for part in sets
        for fault in (
            *part.faults,
            *repeated[part.split],
            *class_balance(part),
            *small_boxes(part, config),
        )
    ]
    found += [(part.split, fault) for part in sets[1:] for fault in _other_classes(sets[0], part)]
    return CheckResult(sets, []).extended([*found, *(("", f) for f in unlisted_files(sets))])


def _other_classes(train: CheckedSet, part: CheckedSet) -> list[Fault]:
    """Find a class with objects that the training set lacks."""
    data = DetectionData(part.records, part.label_map, source=part.source)
    try:
        match_classes(train.label_map, data, train.source)
    except DataError as error:
        return [Fault("classes_differ", str(error), file=part.source)]
    return []


def _entry(split: str, fault: Fault) -> dict[str, Any]:
    box = fault.box and [round(v, 3) if math.isfinite(v) else None for v in fault.box]
    return {
        "kind": fault.kind,
        "severity": fault.severity,
        "split": split,
        "file": fault.file,
        "place": fault.place,
        "field": fault.field,
        "image": fault.image,
        "other_image": fault.other,
        "box": box,
        "message": str(fault),
        "proposal": KINDS[fault.kind].proposal,
    }
