"""Data sets of predictions: training reads them, and corrected labels are never replaced."""

import json
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest

from brightness import BOX, LABELS, Brightness
from clips import grey, number_of, write_clip
from efficientdet_tf import data as data_lib
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.record_images import read_record
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference import labelled_data_sets
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.prediction import plan, predict
from efficientdet_tf.inference.result_formats import FORMATS
from efficientdet_tf.inference.sources import Frame, Source
from efficientdet_tf.output_files import OutputError

DATA_SETS = ("coco", "yolo", "voc")


@pytest.fixture(scope="module")
def detector():
    return Detector(Brightness(), LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in depth, and a video of five frames."""
    folder = tmp_path_factory.mktemp("input")
    for name, number in (("1.png", 1), ("deep/images/2.gif", 2), ("deep/1.jpg", 0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(grey(number, (48, 80))).save(folder / name)
    write_clip(folder / "clip.mp4", [grey(number) for number in range(5)])
    return folder


@pytest.fixture(scope="module")
def done(folder, detector, tmp_path_factory):
    """Folder of all data sets."""
    output = tmp_path_factory.mktemp("output")
    files = plan(str(folder), output, DATA_SETS, with_images=False)
    assert predict(detector, files, 0.3, stride=2).detections == 6
    return output


def test_nothing_else_is_left(done):
    assert sorted(path.name for path in done.iterdir()) == sorted(DATA_SETS)


@pytest.mark.parametrize(
    ("path", "ids"),
    [("coco/annotations.json", (3, 7, 900)), ("yolo", (0, 1, 2)), ("voc", (1, 2, 3))],
)
def test_training_reads_them(done, path, ids):
    data = data_lib.load(str(done / path), split="train")
    assert (len(data), list(data.problems)) == (6, [])
    assert data.label_map.ids == ids
    for record in data.records:
        assert (record.height, record.width) == read_image(record.image).shape[:2]
        np.testing.assert_allclose(record.boxes, [BOX], atol=1e-4)
        [index] = record.classes
        number = number_of(read_image(record.image))
        assert data.label_map.names[index] == LABELS.names[number % 3], record.name


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_images_are_copies_and_frames_are_files(done, folder):
    frames = [f"clip.mp4_00000{number}.jpg" for number in (0, 2, 4)]
    images = done / "coco" / "images"
    assert files_in(images) == sorted(["1.png", "deep/1.jpg", "deep/images/2.gif", *frames])
    for name in ("1.png", "deep/images/2.gif"):
        assert (images / name).read_bytes() == (folder / name).read_bytes()
    flat = sorted(["1.png", "deep_1.jpg", "deep_images_2.gif", *frames])
    assert files_in(done / "yolo" / "images") == files_in(done / "voc" / "JPEGImages") == flat
    stems = [name.rpartition(".")[0] for name in flat]
    assert files_in(done / "yolo" / "labels") == [f"{stem}.txt" for stem in stems]
    assert files_in(done / "voc" / "Annotations") == [f"{stem}.xml" for stem in stems]


def test_scores_are_where_tools_accept_them(done):
    coco = json.loads((done / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert list(coco) == ["info", "categories", "annotations", "images"]
    assert [entry["score"] for entry in coco["annotations"]] == [0.9] * 6
    assert [entry["id"] for entry in coco["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert coco["categories"][2] == {"id": 7, "name": "Kuh ä"}
    tree = ElementTree.parse(done / "voc" / "Annotations" / "1.xml")
    assert [item.text for item in tree.iter("confidence")] == ["0.9"]
    line = (done / "yolo" / "labels" / "1.txt").read_text()
    assert line == "1 0.3 0.29296875 0.4 0.4140625\n"


def test_images_without_detections_are_in_them(folder, detector, tmp_path):
    predict(detector, plan(str(folder / "1.png"), tmp_path, DATA_SETS), 1.0)
    coco = json.loads((tmp_path / "coco" / "annotations.json").read_text(encoding="utf-8"))
    assert coco["annotations"] == []
    assert [entry["file_name"] for entry in coco["images"]] == ["1.png"]
    assert (tmp_path / "yolo" / "labels" / "1.txt").read_text() == ""


def test_a_box_without_size_is_no_label(detector, photograph, tmp_path):
    boxes = np.array([[0, 5, 9, 5], BOX, [7, 5, 7, 9]], np.float32)
    found = Detections(boxes, np.ones(3, np.float32), np.arange(3, dtype=np.int32))
    frame = Frame(
        Source("a.jpg", str(photograph), "image"), read_image(photograph), str(photograph)
    )
    for name in DATA_SETS:
        with FORMATS[name].writing(tmp_path / name, LABELS) as write:
            write(frame, found)
    for path in ("coco/annotations.json", "yolo", "voc"):
        data = data_lib.load(str(tmp_path / path), split="train")
        assert [data.label_map.names[i] for i in data.records[0].classes] == ["bee"]
        assert list(data.problems) == []


@pytest.mark.parametrize("name", DATA_SETS)
def test_labels_that_may_be_corrected_are_kept(done, folder, name):
    with pytest.raises(OutputError) as error:
        plan(str(folder), done, [name])
    assert str(error.value) == (
        f"--output: {done}/{name} exists, and its labels may have been corrected; move it away, "
        "or choose another folder"
    )


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_two_images_of_one_label_file_are_named(detector, tmp_path, name):
    for image in ("in/a_b.jpg", "in/a/b.png"):
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(grey(1)).save(tmp_path / image)
    with pytest.raises(OutputError) as error:
        plan(str(tmp_path / "in"), tmp_path / "out", [name])
    assert str(error.value) == (
        f"--output: {tmp_path}/out/{name}: a/b.png and a_b.jpg would have one label file, a_b; "
        "rename one"
    )
    plan(str(tmp_path / "in"), tmp_path / "out", ["coco"])


def test_two_videos_of_one_label_file_are_named_before_the_first_frame(tmp_path):
    for video in ("in/a_b.mp4", "in/a/b.mp4"):
        (tmp_path / video).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / video).write_bytes(b"not opened")
    with pytest.raises(OutputError) as error:
        plan(str(tmp_path / "in"), tmp_path / "out", ["yolo"], with_images=False)
    assert str(error.value) == (
        f"--output: {tmp_path}/out/yolo: a/b.mp4 and a_b.mp4 would have one label file, "
        "a_b.mp4_000000; rename one"
    )
    plan(str(tmp_path / "in"), tmp_path / "out", ["coco"], with_images=False)


def test_images_that_would_have_one_file_are_named(tmp_path):
    # As "a" gets the suffix of its format.
    for name in ("a", "a.png"):
        PIL.Image.fromarray(grey(1)).save(tmp_path / name, "PNG")
    (tmp_path / "list.txt").write_text("a\na.png\n")
    with pytest.raises(OutputError) as error:
        plan(str(tmp_path / "list.txt"), tmp_path / "out", ["coco"])
    assert str(error.value) == (
        f"--output: {tmp_path}/out/coco: a and a.png would have one image file, a.png; rename one"
    )


def test_an_image_may_have_the_name_of_a_video(detector, tmp_path):
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "clip.mp4", [grey(1)])
    PIL.Image.fromarray(grey(1)).save(tmp_path / "in" / "clip.png")
    predict(detector, plan(str(tmp_path / "in"), tmp_path / "out", ["yolo"]), 0.3)
    names = sorted(path.name for path in (tmp_path / "out" / "yolo" / "images").iterdir())
    assert names == ["clip.mp4_000000.jpg", "clip.png"]


def test_nothing_is_left_of_a_prediction_that_fails(folder, tmp_path):
    class Failing(Brightness):
        def detect(self, images):
            if self.batches:
                raise OutputError("the second batch")
            return super().detect(images)

    files = plan(str(folder), tmp_path / "out", DATA_SETS, with_images=False)
    with pytest.raises(OutputError, match="^the second batch$"):
        predict(Detector(Failing(), LABELS), files, 0.3, batch_size=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_they_are_no_input_of_the_next_call(detector, tmp_path):
    PIL.Image.fromarray(grey(1)).save(tmp_path / "a.png")
    output = tmp_path / "found"
    predict(detector, plan(str(tmp_path), output, DATA_SETS), 0.3)
    files = plan(str(tmp_path), output)
    assert [source.name for source in files.sources] == ["a.png"]
    # Images that the user has there are.
    PIL.Image.fromarray(grey(1)).save(output / "b.png")
    assert [s.name for s in plan(str(tmp_path), output).sources] == ["a.png", "found/b.png"]


@pytest.mark.parametrize("path", ["coco/annotations.json", "yolo", "voc"])
def test_turned_photographs_have_their_labels_upright(detector, tmp_path, path):
    exif = PIL.Image.Exif()
    # To be turned by a quarter.
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(grey(1, (80, 48))).save(tmp_path / "in" / "a.jpg", exif=exif)
    name = path.partition("/")[0]
    predict(detector, plan(str(tmp_path / "in"), tmp_path / "out", [name]), 0.3)
    [record] = data_lib.load(str(tmp_path / "out" / path), split="train").records
    assert read_record(record).shape == (record.height, record.width, 3) == (48, 80, 3)
    np.testing.assert_allclose(record.boxes, [BOX], atol=1e-4)


def test_images_of_urls_get_a_suffix(detector, tmp_path, photograph):
    """The bytes are written as they are where the name says their format."""
    pixels, content = read_image(photograph), photograph.read_bytes()
    frames = [
        Frame(Source(name, "http://one.org/" + name, "image"), pixels, content)
        for name in ("cat.jpg", "cats")
    ]
    [found] = detector.detect([pixels])
    with labelled_data_sets.writing_coco(tmp_path / "coco", LABELS) as write:
        for frame in frames:
            write(frame, found)
    assert (tmp_path / "coco" / "images" / "cat.jpg").read_bytes() == content
    np.testing.assert_array_equal(read_image(tmp_path / "coco" / "images" / "cats.png"), pixels)
