"""Benchmark of COCO metrics after inference: time and memory.

    python -m benchmarks.coco_metrics --images=5000

prints time and peak memory of collecting detections, computing their metrics, the
diagnosis, and writing the results file, for a synthetic data set of COCO's size. Half of the
detections are noisy copies of objects, the others have random boxes and classes. With
`--reference`, pycocotools measures the same detections, from dicts; with `--compare`, another
set of detections is compared with them by 1000 resamples.

    python -m benchmarks.coco_metrics --random_cases=10000

compares the metrics and precision-recall curves with pycocotools' on small random cases with
crowd regions, ignored objects and ties, to the last digit.
"""

import pathlib
import resource
import tempfile
import time

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.coco_reference import differences, random_case, reference
from efficientdet_tf.boxes import areas
from efficientdet_tf.cli import command_line
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.comparison import compare
from efficientdet_tf.evaluation.diagnosis import diagnose

FLAGS = flags.FlagValues()

flags.DEFINE_integer("images", 5000, "Images in the data set.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "detections", 100, "Detections in each image.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("classes", 80, "Classes.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("objects", 7, "Objects in each image.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("reference", False, "Measure with pycocotools, too.", flag_values=FLAGS)
flags.DEFINE_bool("compare", False, "Compare with other detections.", flag_values=FLAGS)
flags.DEFINE_integer(
    "random_cases", 0, "Compare this many random cases instead.", lower_bound=0, flag_values=FLAGS
)

_SIDE = 640


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Draw random boxes: float32 [count, 4], ymin, xmin, ymax, xmax in pixels."""
    sizes = random.uniform(5, 300, (count, 2))
    corners = random.uniform(0, _SIDE - sizes)
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)


def dataset(random: np.random.Generator) -> DetectionData:
    """Make a data set of objects without pixels."""
    count, classes = FLAGS.objects, FLAGS.classes
    records = []
    for image_id in range(1, FLAGS.images + 1):
        boxes = random_boxes(random, count)
        records.append(
            Record(
                image_id=image_id,
                image="",
                height=_SIDE,
                width=_SIDE,
                boxes=boxes,
                classes=random.integers(0, classes, count).astype(np.int32),
                is_crowd=np.zeros(count, bool),
                area=areas(boxes),
            )
        )
    names = tuple(f"class {index}" for index in range(classes))
    return DetectionData(records, LabelMap(tuple(range(1, classes + 1)), names))


def detections(random: np.random.Generator, record: Record) -> tuple[np.ndarray, ...]:
    """Make boxes float32 [n, 4] in pixels, scores float32 [n] and class indices int32 [n]."""
    count = FLAGS.detections
    object_indices = random.integers(0, len(record.boxes), count // 2)
    noise = random.normal(0, 8, (len(object_indices), 4)).astype(np.float32)
    num_random = count - len(object_indices)
    boxes = np.concatenate([record.boxes[object_indices] + noise, random_boxes(random, num_random)])
    # Noise must not swap the corners of a small box.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    classes = np.concatenate(
        [record.classes[object_indices], random.integers(0, FLAGS.classes, num_random)]
    )
    return boxes, random.random(count).astype(np.float32), classes.astype(np.int32)


def main() -> None:
    """Compare random cases, or measure time and memory."""
    if FLAGS.random_cases:
        compare_random_cases(FLAGS.random_cases)
    else:
        measure()


def compare_random_cases(count: int) -> None:
    """Compare random cases with pycocotools, and print the number of those that differ."""
    random = np.random.default_rng(0)
    different = [names for _ in tqdm(range(count)) if (names := differences(*random_case(random)))]
    print(f"{count} random cases: {len(different)} differ from pycocotools")
    for names in different[:10]:
        print(", ".join(names))


def measure() -> None:
    """Collect, measure and write detections, and print time and memory of each."""
    random = np.random.default_rng(0)
    data = dataset(random)
    found = [(record.image_id, *detections(random, record)) for record in data.records]
    print(f"{len(found)} images with {FLAGS.detections} detections each")
    print(f"{'before':11}{_peak():>24.2f} GB")
    evaluator = CocoEvaluator(data)
    _run_timed("collect", lambda: [evaluator.add(*item) for item in found])
    result = _run_timed("measure", evaluator.result)
    _run_timed("diagnose", lambda: diagnose(data, evaluator.arrays()))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "detections.json"
        _run_timed("write", lambda: evaluator.write_results(path))
    print({name: round(value, 6) for name, value in result.metrics.items()})
    if FLAGS.compare:
        other = CocoEvaluator(data)
        for record in data.records:
            other.add(record.image_id, *detections(random, record))
        compared = evaluator.arrays(), other.arrays(), "others"
        print(_run_timed("compare", lambda: compare(data, *compared)).summary())
    if FLAGS.reference:
        expected = _run_timed("pycocotools", lambda: reference(data, evaluator.arrays()))
        same = expected.stats.tolist() == list(result.metrics.values())
        print(f"the same twelve numbers to the last digit: {same}")


def _run_timed(name: str, function):
    """Run a function; print its seconds and the peak memory so far."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"{name:11}{clock:>8.1f} s, {processor:>6.1f} s of work{_peak():>8.2f} GB")
    return result


def _peak() -> float:
    """Return the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    command_line.run(command_line.Command("coco_metrics", __doc__, lambda: FLAGS, lambda _: main()))
