"""report.html: its content, that it is self-contained, and that text is escaped."""

import base64
import html.parser
import io
import re

import numpy as np
import PIL.Image
import pytest
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation import verified_files
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.comparison import compare
from efficientdet_tf.evaluation.verified_files import VerifiedFile
from efficientdet_tf.files import WriteError
from efficientdet_tf.inference.compared_runtimes import ComparedRuntime, RuntimeComparison
from efficientdet_tf.report.page import write_report
from efficientdet_tf.run_directory import RunDirectory
from keras_layers.feature_network import build_feature_network

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style>&amp;Kühe")
METRICS = """epoch,seconds,learning_rate,loss,detection_loss,class_loss,box_loss,AP,AP50,AP75
1,60.0,0.01,900,2,1,0.01,,,
2,30.0,0.008,3,1.5,0.8,0.008,{AP:.6g},0.5,0.2
3,30.0,0.004,2,1.2,0.7,0.007,,,
"""


class Page(html.parser.HTMLParser):
    """Tags, text and attributes of a page; fails where tags are not closed in order."""

    VOID = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def dataset(names, num_images=4, with_last_class=True):
    """Images of 60 x 80 pixels, each with two objects; of the last class on demand."""
    random = np.random.default_rng(len(names))
    png = io.BytesIO()
    PIL.Image.fromarray(random.integers(0, 255, (60, 80, 3), np.uint8)).save(png, "PNG")
    classes = len(names) if with_last_class else len(names) - 1
    records = [
        Record(
            image_id=number,
            image=png.getvalue(),
            height=60,
            width=80,
            boxes=np.array([[5, 5, 25, 35], [30, 40, 55, 75]], np.float32),
            classes=np.array([2 * number, 2 * number + 1], np.int32) % classes,
            is_crowd=np.zeros(2, bool),
            area=np.array([600, 875], np.float32),
            name=f"images/{names[0]}/{number}.png",
        )
        for number in range(num_images)
    ]
    return DetectionData(records, LabelMap(tuple(range(5, 5 + len(names))), names), source="made")


def found(data, wrong_in=()):
    """Detections of all objects, with another class in the images `wrong_in`."""
    evaluator = CocoEvaluator(data)
    for record in data.records:
        shift = int(record.image_id in wrong_in)
        classes = (record.classes + shift) % len(data.label_map)
        evaluator.add(record.image_id, record.boxes, [0.9, 0.8], classes)
    return Measured.from_evaluator(evaluator)


def written(
    folder,
    val_data,
    measured,
    train_data=None,
    metrics=METRICS,
    model=None,
    comparison=None,
    weights="",
    **overrides,
):
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.image_size": 64,
            "model.num_classes": len(val_data.label_map),
            "data.train": "digits",
            "data.val": "digits",
            **overrides,
        }
    )
    directory = RunDirectory(folder)
    directory.create(config, val_data.label_map)
    if metrics:
        text = metrics.format(**measured.result.metrics)
        (folder / "metrics.csv").write_text(text)
    path = write_report(directory, train_data, val_data, measured, model, comparison, weights)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Report of three classes, the last without objects; one image has errors."""
    data = dataset(("cat", "dog", "owl"), with_last_class=False)
    measured = found(data, wrong_in={2})
    train = dataset(("cat", "dog", "owl"), num_images=7)
    return written(tmp_path_factory.mktemp("run"), data, measured, train)


def test_the_page_shows_the_numbers(page):
    for text in (
        "efficientdet-lite0",
        "3 classes, 64×64 pixels",
        "on 4 images of digits",
        "with the weights of epoch 2, the best of the run",
        # 3 epochs of 60, 30 and 30 seconds.
        "3 epochs 2.0 minutes",
        # 3 of 4 objects of each class are detected; the last class has none.
        "cat 0.752",
        "owl – – 0.000 –",
        "2.png: FN 2, FP 2, F1 0.00",
    ):
        assert text in page.text, text
    rows = [row for row in re.split("training |validation ", page.text) if row.startswith("7 0 14")]
    assert rows and rows[0].startswith("7 0 14 2.0")


def test_the_page_is_self_contained_and_runs_no_script(page):
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not page.values("href") and not page.values("srcset")
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    [policy] = [value for value in page.values("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_worst_images_are_drawn(page):
    sources = page.values("src")
    # Ground truth and predictions of one image.
    assert len(sources) == 2
    images = [
        PIL.Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources
    ]
    assert [image.size for image in images] == [(80, 60)] * 2
    assert np.abs(np.subtract(*map(np.asarray, images), dtype=float)).max() > 50


def test_what_costs_ap_is_named(page):
    # Image 2 of 4: both boxes have another class.
    for text in (
        "Why AP is not higher Class errors cost most, 0.342 of AP50: boxes are right but classes "
        "are confused",
        "without the errors of a kind (TIDE). Without any false positive it would be 0.752,",
        "class 0.342 2 on an object of another class localisation 0.000 0 ",
        "missed 0.000 0 object without any of these",
        "AP of the ground truth against itself 1.000",
        "AP50 without classes 1.000",
        "AP50 of boxes x and y swapped 0.376",
        "Precision by score: calibration error 0.100, scores 0.100 too high on average",
        "Classes with detections, but without objects: owl.",
        "cat 0.900 1.000 0.750 0.857",
    ):
        assert text in page.text, text


def test_the_confusion_matrix_has_a_hint_for_each_cell(page):
    # In image 2 (classes 0 and 1) a cat is predicted as dog, and a dog as owl.
    for hint in ("cat → cat: 3 of 4", "cat → dog: 1 of 4", "dog → owl: 1 of 4"):
        assert hint in page.text
    assert "background →" not in page.text


def test_changed_settings_are_marked(page):
    text = page.text
    assert "model.image_size 64, 64" in text and "optimizer.learning_rate 0.08" in text
    # Image size and number of classes.
    # The two that the test changes, and the two paths of the data.
    assert page.values("class").count("changed") == 4


def test_versions_are_listed(page):
    assert re.search(r"tensorflow 2\.\d+", page.text) and "python 3." in page.text


@pytest.mark.parametrize("number", [1, 2, 80])
def test_any_number_of_classes(tmp_path, number):
    data = dataset(tuple(f"class {i}" for i in range(number)), num_images=20)
    page = written(tmp_path, data, found(data, wrong_in={3}), data)
    assert all(f"class {i} " in page.text for i in range(number))
    # Counts are written in the cells of small matrices only.
    assert ("on" in page.values("class")) == (number < 80)
    numbers = [v for name in ("x", "y", "d", "width") for v in page.values(name)]
    assert not [value for value in numbers if "nan" in value or "inf" in value]


def test_user_text_is_escaped(tmp_path):
    data = dataset(HOSTILE)
    data = DetectionData(data.records, data.label_map, ["<b>bad</b> record"], source="made")
    measured = found(data, wrong_in={0, 1})
    path = "runs/<i>data</i>&quot;"
    page = written(tmp_path, data, measured, data, **{"data.val": path, "data.train": path})
    for text in (*HOSTILE, "<b>bad</b> record", path):
        assert text in page.text
    assert not {"script", "b>"} & set(page.tags)
    assert len(page.values("src")) == page.tags.count("img") == 4
    assert not page.values("onerror")
    source = (tmp_path / "report.html").read_text()
    assert "<script>" not in source and "<img src=x onerror=alert(1)>" not in source


def test_ignored_objects_and_notes_are_shown(tmp_path):
    data = dataset(("cat", "dog"), num_images=1)
    marked = {**vars(data.records[0]), "is_ignored": np.array([True, False])}
    data = DetectionData([Record(**marked)], data.label_map, source="made", notes=["a note"])
    page = written(tmp_path, data, Measured.from_evaluator(CocoEvaluator(data)), data)
    assert "Objects per image Ignored training 1 0 1 1.0 1 validation 1 0 1 1.0 1" in page.text
    assert "made: a note" in page.text
    assert "FN 1, FP 0" in page.text and "crowd or ignored, not counted" in page.text


def test_no_detections_and_no_epochs(tmp_path):
    data = dataset(("cat", "dog"))
    page = written(tmp_path, data, Measured.from_evaluator(CocoEvaluator(data)), metrics="")
    assert "No epoch has been measured." in page.text
    assert "The training set cannot be read any more." in page.text
    assert "3.png: FN 2, FP 0" in page.text
    assert "detections that score at least 0.5, at IoU 0.5." in page.text


def test_no_images_at_all(tmp_path):
    data = dataset(("cat",), num_images=0)
    page = written(tmp_path, data, Measured.from_evaluator(CocoEvaluator(data)))
    assert "No errors." in page.text
    # AP is NaN.
    assert page.text.startswith("efficientdet-lite0, AP – ")
    assert "– AP – AP50 – AP75 " in page.text
    assert "There are no objects that count, so that AP is undefined." in page.text


def test_weights_other_than_the_best_are_noted(tmp_path):
    data = dataset(("cat", "dog"))
    metrics = METRICS.replace("3,30.0,0.004,2,1.2,0.7,0.007,,,", "3,30,0.004,2,1,1,1,0.1,0.2,0.1")
    page = written(tmp_path, data, found(data, wrong_in={0, 1, 2, 3}), metrics=metrics)
    assert "These weights are not those of epoch 3, the best of the run, with AP 0.100" in page.text
    # Of the best weights AP differs slightly on another device, or in float32.
    again = written(tmp_path, data, found(data, wrong_in=range(4)), metrics=metrics, weights="best")
    text = "with the weights of epoch 3, the best of the run; in training it was 0.100."
    assert text in again.text and "are not those" not in again.text


def test_class_weights_are_shown(tmp_path):
    data = dataset(("cat", "dog"))
    weights = {"loss.class_weights": "inverse", "loss.class_weight_values": [0.25, 1.75]}
    page = written(tmp_path, data, found(data), data, **weights)
    assert "Weight" in page.text and "4 0.25 dog" in page.text


def test_a_missing_image_is_named(tmp_path):
    data = dataset(("cat", "dog"), num_images=1)
    record = data.records[0].__class__(**{**vars(data.records[0]), "image": "gone.png"})
    data = DetectionData([record], data.label_map, source="made")
    page = written(tmp_path, data, Measured.from_evaluator(CocoEvaluator(data)))
    assert "images/cat/0.png: image: " in page.text
    assert not page.values("src")


def test_an_unwritable_folder_is_refused(tmp_path):
    data = dataset(("cat",))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(WriteError) as error:
        written(tmp_path, data, found(data))
    assert str(error.value) == f"{tmp_path}/report.html: cannot be written: Is a directory"


@pytest.mark.parametrize("fusion", ["fast", "channel_fast", "sum"])
def test_fusion_weights_are_shown_if_there_are_any(tmp_path, fusion):
    inputs = {level: keras.Input((64 >> level, 64 >> level, 8)) for level in (3, 4)}
    network = build_feature_network("bifpn", num_filters=8, fusion=fusion)
    model = keras.Model(inputs, network(inputs))
    if fusion == "fast":
        first, second = network.nodes[0].fusion.edge_weights
        second.assign(3.0)
    data = dataset(("cat", "dog"))
    page = written(tmp_path, data, found(data), model=model)
    assert ("Fusion weights" in page.text) == (fusion != "sum")
    if fusion == "fast":
        # 1 and 3 of 4.0001.
        assert "BiFPN 1 P3 out P3 in 0.2500 BiFPN 1 P3 out P4 in 0.7500" in page.text
        assert "sum of relu(w) x / (1e-4 + sum of relu(w))" in page.text
    assert ("Bars are means over channels" in page.text) == (fusion == "channel_fast")


def test_the_comparison_with_another_run_is_shown_if_there_is_one(tmp_path):
    data = dataset(("cat", "dog", "owl"), num_images=30, with_last_class=False)
    better, worse = found(data), found(data, wrong_in=range(10))
    assert "Compared with" not in written(tmp_path / "run", data, better).text
    both = compare(data, better.detections, worse.detections, "<runs/b>", resamples=200)
    page = written(tmp_path / "other", data, better, comparison=both)
    low, high = both.metrics["AP"].low, both.metrics["AP"].high
    assert 0.1 < low < both.metrics["AP"].difference < high
    second = both.metrics["AP"].second
    assert "Compared with <runs/b>" in page.text
    assert "from 200 resamples of 30 images (bootstrap, seed 0)" in page.text
    row = f"AP 1.000 {second:.3f} {1 - second:+.3f} {low:+.3f} to {high:+.3f} AP50 1.000"
    assert row in page.text
    few_images = DetectionData(data.records[:9], data.label_map)
    ids = [record.image_id for record in few_images.records]
    some = [
        each.detections.taken(np.isin(each.detections.image_ids, ids)) for each in (better, worse)
    ]
    few = compare(few_images, *some, "few", resamples=9)
    page = written(tmp_path / "few", data, better, comparison=few)
    assert f"AP 1.000 {few.metrics['AP'].second:.3f}" in page.text
    assert f"{few.metrics['AP'].difference:+.3f} \u2013 AP50" in page.text
    # Of a class without objects there is no AP.
    assert "AP by class This run The other Difference 95 % interval cat 1.000" in page.text
    assert set(both.classes) == {"cat", "dog"}


def test_exported_files_are_listed_if_they_were_verified(tmp_path):
    data = dataset(("cat", "dog"))
    assert "Exported files" not in written(tmp_path / "run", data, found(data)).text
    latency = {1: (15.31, 16.0), 2: (10.0, 10.9)}
    measurements = 900_000, 0.613, 0.84, 0.0012, 8.44, 0.045, 0.25, latency, 9_500_000
    files = [
        VerifiedFile("tflite_int8", *measurements, is_kept=True),
        VerifiedFile("tflite_dynamic", *measurements, is_kept=False),
    ]
    (tmp_path / "run" / "export").mkdir()
    path = tmp_path / "run" / "export" / "verification.json"
    path.write_text(verified_files.to_json(files))
    text = written(tmp_path / "run", data, found(data)).text
    row = "0.90 0.613 0.840 0.001 8.44 0.045 25.0% 10 1: 15.3 / 16.0 ms, 2: 10.0 / 10.9 ms"
    assert f"Latency tflite_int8 {row} tflite_dynamic; not kept {row}" in text
    # It is not the report's to refuse.
    path.write_text("[{}]")
    text = written(tmp_path / "run", data, found(data)).text
    assert "Exported files" not in text
    assert f"{path}: cannot be read: not measurements of exported files" in text


def test_runtimes_are_listed_if_they_were_compared(tmp_path):
    data = dataset(("cat", "dog"))
    assert "Runtimes" not in written(tmp_path / "run", data, found(data)).text
    (tmp_path / "run" / "export").mkdir()
    path = tmp_path / "run" / "export" / "runtimes.json"
    run = ComparedRuntime(
        *("run", "keras", 2_710_000, 0.377, True, 192_000_000, "", ""),
        {1: (34.5, 40.3), 2: (14.5, 16.1)},
        {1: {1: 29.0, 8: 40.0}, 2: {1: 69.0, 8: 93.8}},
    )
    path.write_text(
        RuntimeComparison("A processor", "0a1b", "data/val.json", 0.01, (run,)).to_json()
    )
    text = written(tmp_path / "run", data, found(data)).text
    assert (
        "Speed run keras 2.71 0.377 yes 192 1: 34.5 / 40.3 ms, x1 29.0/s, x8 40.0/s; "
        "2: 14.5 / 16.1 ms, x1 69.0/s, x8 93.8/s"
    ) in text
    assert "Runtimes Fastest for one image: run in keras, 14.5 ms, 1.0 times as fast" in text
    assert "A processor. AP on data/val.json. Exact: " in text
    path.write_text("{}")
    text = written(tmp_path / "run", data, found(data)).text
    assert "Runtimes" not in text
    assert f"{path}: cannot be read: not a comparison of runtimes" in text
