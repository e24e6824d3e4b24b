"""Statistics of data sets, compared with numbers counted by hand."""

import numpy as np

from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.data.statistics import count_objects, count_sizes, describe, summarize


def record(image_id, height, width, boxes, classes, is_crowd, is_ignored=None):
    return Record(
        image_id=image_id,
        image="",
        height=height,
        width=width,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int32),
        is_crowd=np.array(is_crowd, bool),
        area=np.ones(len(classes), np.float32),
        is_ignored=np.array(is_ignored, bool) if is_ignored else None,
    )


DATA = DetectionData(
    [
        # Twice as wide as the network's input, so boxes become half as large.
        record(1, 100, 200, [[0, 0, 20, 80], [0, 0, 90, 90]], [1, 0], [False, True]),
        record(2, 50, 50, [[0, 0, 10, 10], [5, 5, 5, 25]], [1, 2], [False, False]),
        record(3, 50, 50, [], [], []),
    ],
    LabelMap((1, 2, 3, 4), ("a", "b", "c", "d")),
)


def test_crowd_regions_are_no_objects():
    assert count_objects(DATA).tolist() == [0, 2, 1, 0]


def test_sizes_are_of_the_networks_input():
    numbers = describe(DATA, (100, 100))
    assert (numbers.num_images, numbers.num_empty) == (3, 1)
    assert numbers.objects.tolist() == [0, 2, 1, 0]
    # 10 x 40, twice 10 x 10, and a line of 0 x 40.
    np.testing.assert_allclose(numbers.sizes, [20, 20, 0])
    np.testing.assert_allclose(numbers.aspects[:2], [4, 1])


def test_ignored_objects_are_counted_by_themselves():
    boxes = [[0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 9, 9]]
    some = record(1, 50, 50, boxes, [1, -1, 2], [False] * 3, [False, True, True])
    none = record(2, 50, 50, boxes[:1], [0], [False], [True])
    data = DetectionData([some, none], DATA.label_map)
    assert count_objects(data).tolist() == [0, 1, 0, 0]
    numbers = describe(data, (50, 50))
    assert (numbers.num_images, numbers.num_empty, numbers.num_ignored) == (2, 1, 3)
    assert numbers.sizes.tolist() == [10]


def test_nothing_is_described_as_nothing():
    numbers = describe(DetectionData([], DATA.label_map), (100, 100))
    assert (numbers.num_images, numbers.num_empty, len(numbers.sizes)) == (0, 0, 0)


def test_a_summary_counts_images_of_classes_and_scales_areas():
    summary = summarize(DATA, (100, 100), "stretch")
    assert summary.num_images.tolist() == [0, 2, 1, 0]
    assert summary.per_image.tolist() == [1, 2, 0] and summary.num_crowd == 1
    assert summary.image_sizes.tolist() == [[100, 200], [50, 50], [50, 50]]
    # Areas are annotated as 1; the first image is half as wide, the second twice as large.
    np.testing.assert_allclose(summary.sizes, [1, 1, 1])
    np.testing.assert_allclose(summary.sizes_at_input, [0.5**0.5, 2, 2])
    nothing = summarize(DetectionData([], DATA.label_map), (100, 100)).to_dict()
    assert nothing["image_width"]["median"] is None and nothing["object_size"]["small"] == 0


def test_coco_counts_sizes_by_area():
    sizes = np.array([1, 31.9, 32, 95.9, 96, 1000])
    assert count_sizes(sizes) == {"small": 2, "medium": 2, "large": 2}
