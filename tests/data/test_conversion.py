"""Conversion between all formats: what is kept, what is lost, and restarts."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data import DataError, conversion
from efficientdet_tf.data.conversion import convert
from efficientdet_tf.data.layouts import LAYOUTS, objects_to_write
from efficientdet_tf.output_files import OutputError

FORMATS = list(LAYOUTS)
CATEGORIES = {9: "big dog", 3: "Kuh, ä", 70: "<cat> & co"}
# File, (width, height) as annotated, EXIF orientation.
IMAGES = {
    500: ("a.jpg", (64, 48), None),
    20: ("b/a.jpg", (66, 48), None),
    7: ("turned.jpg", (40, 68), 6),
    8: ("stored.jpg", (72, 44), 6),
    9: ("A.png", (74, 40), None),
    30: ("empty.webp", (50, 50), None),
}


def annotation(number, image, box, category=9, **more) -> dict:
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
    return entry | {"area": box[2] * box[3]} | more


ANNOTATIONS = [
    annotation(1, 500, [10.4, 5.1, 20.3, 30.7]),
    annotation(2, 500, [0, 0, 64, 48], 3, iscrowd=1),
    annotation(3, 500, [1, 2, 3, 4], 70, area=7.5, segmentation=[[1, 2, 4, 2, 4, 6]]),
    annotation(4, 20, [5, 5, 10, 10], 3, ignore=1),
    annotation(5, 7, [3.3, 40.7, 30.1, 20.2]),
    annotation(6, 8, [60, 4, 10, 11]),
    annotation(7, 9, [1.25, 2, 30, 30], 70),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """COCO file with everything that one of the formats cannot hold."""
    folder = tmp_path_factory.mktemp("source")
    for name, (width, height), orientation in IMAGES.values():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation or 1
        size = (height, width) if name == "turned.jpg" else (width, height)
        Image.new("RGB", size, (9, 99, 199)).save(path, **({"exif": exif} if orientation else {}))
    content = {
        "images": [
            {"id": id_, "file_name": name, "width": size[0], "height": size[1]}
            for id_, (name, size, _) in IMAGES.items()
        ],
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
        "annotations": ANNOTATIONS,
    }
    (folder / "all.json").write_text(json.dumps(content))
    return folder / "all.json"


@pytest.fixture(scope="module")
def sets(source, tmp_path_factory) -> dict[str, str]:
    """Path of the data set in each format."""
    folder = tmp_path_factory.mktemp("sets")
    paths = {}
    for format in FORMATS:
        convert(str(source), format, folder / format, ["train"])
        paths[format] = path_of(folder / format, format)
    return paths


def path_of(folder: Path, format: str) -> str:
    return str(folder / "train.json" if format == "coco" else folder)


def by_size(loaded) -> dict:
    """Return the records by image size, of which each image has its own."""
    return {(record.width, record.height): record for record in loaded.records}


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("start", FORMATS)
def test_what_both_formats_hold_is_kept(sets, tmp_path, start, target):
    before = conversion.load(sets[start], "train")
    [converted] = convert(sets[start], target, tmp_path / "out", ["train"])
    after = conversion.load(path_of(tmp_path / "out", target), "train")
    assert data.format_name(path_of(tmp_path / "out", target)) == target
    assert (after.problems, after.label_map.names) == ((), before.label_map.names)
    written = by_size(after)
    assert written.keys() == by_size(before).keys() == {size for _, size, _ in IMAGES.values()}
    layout = LAYOUTS[target]
    for size, record in by_size(before).items():
        expected, found = objects_to_write(record, layout), written[size]
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-5)
        for field in ("classes", "is_crowd", "is_difficult"):
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
        if layout.area:
            np.testing.assert_allclose(found.area, expected.area, rtol=1e-6)
        if layout.image_ids:
            assert found.image_id == record.image_id
    if layout.first_category_id is None:
        assert after.label_map == before.label_map
    if (start, target) == ("coco", "coco"):
        assert converted.lost == []


def test_what_is_lost_is_counted(source, tmp_path):
    def lost(format):
        [converted] = convert(str(source), format, tmp_path / format, ["train"])
        return converted.lost

    mask = "segmentation: 1; only the box is written"
    assert lost("coco") == lost("tfrecord") == [mask]
    assert lost("voc") == [
        mask,
        "image ids: 6, e.g. 9; voc has none, only names of files",
        "category ids: 3, e.g. 3 becomes 1; voc numbers by position",
        "crowd regions: 1; written as difficult objects",
        "areas of masks: 1; the box's area is used",
    ]
    assert lost("yolo") == [
        mask,
        "image ids: 6, e.g. 9; yolo has none, only names of files",
        "category ids: 3, e.g. 3 becomes 0; yolo numbers by position",
        "crowd regions: 1; left out",
        "difficult objects: 1; written as ordinary objects",
        "areas of masks: 1; the box's area is used",
    ]
    assert lost("csv") == [
        mask,
        "image ids: 6, e.g. 9; csv has none, only names of files",
        "category ids: 3, e.g. 3 becomes 1; csv numbers by position",
        "difficult objects: 1; written as ordinary objects",
        "areas of masks: 1; the box's area is used",
    ]


def test_images_are_linked_or_copied_under_names_of_their_own(source, tmp_path):
    for copy in (False, True):
        folder = tmp_path / str(copy)
        convert(str(source), "coco", folder, ["train"], copy=copy)
        written = {path.name: path for path in (folder / "train").iterdir()}
        assert written.keys() == {
            *("a.jpg", "a-20.jpg", "turned.jpg", "stored.jpg", "A-9.png", "empty.webp")
        }
        original = source.parent / "images" / "b" / "a.jpg"
        assert written["a-20.jpg"].read_bytes() == original.read_bytes()
        assert written["a-20.jpg"].samefile(original) == (not copy)


def test_an_image_annotated_as_stored_loses_its_orientation_where_there_are_no_sizes(sets):
    """Readers of a format without image sizes would turn it, but not its boxes."""
    for format, folder in (("yolo", "images/train"), ("csv", "train")):
        written = Path(sets[format]) / folder
        assert Image.open(written / "stored.jpg").getexif() == {}
        assert Image.open(written / "turned.jpg").getexif() == {0x0112: 6}
    assert Image.open(Path(sets["voc"]) / "JPEGImages" / "stored.jpg").getexif() == {0x0112: 6}


def test_objects_that_cannot_be_used_stay_ignored_where_they_can(source, tmp_path):
    content = json.loads(source.read_text())
    content["annotations"] += [
        annotation(8, 9, [50, 10, 0, 10]),
        annotation(9, 9, [50, 20, 10, 10], 1234),
    ]
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(content))
    expected = {
        "coco": ([False, True], ["objects of an unknown category: 1; left out"]),
        "voc": ([False, True], ["objects of an unknown category: 1; left out"]),
        "yolo": ([False], ["objects of an unknown category: 1; left out"]),
        "csv": ([False], ["objects of an unknown category: 1; left out"]),
        "tfrecord": ([False, True, True], []),
    }
    for format, (ignored, unknown) in expected.items():
        folder = tmp_path / format
        [converted] = convert(
            str(bad), format, folder, ["train"], images=str(source.parent / "images")
        )
        loaded = by_size(data.load(path_of(folder, format)))
        assert loaded[(74, 40)].is_ignored.tolist() == ignored, format
        lines = [line for line in converted.lost if line.startswith("objects ")]
        left = "left out" if len(ignored) == 1 else "written as difficult objects"
        invalid = [f"objects without a valid box: 1; {left}"] if unknown else []
        assert lines == unknown + invalid


def test_a_second_split_is_added_and_others_are_refused(source, tmp_path):
    shutil.copy(source, source.with_name("other.json"))
    for format in ("yolo", "voc"):
        folder = tmp_path / format
        for split in ("train", "val", "train"):
            convert(str(source), format, folder, [split])
        train, val = (conversion.load(str(folder), split) for split in ("train", "val"))
        assert len(train) == len(val) == 6 and data.lacks_validation(str(folder)) == ""
    convert(str(source), "yolo", tmp_path / "yolo", ["test"])
    assert len(conversion.load(str(tmp_path / "yolo"), "test")) == 6
    names = {path.stem for path in (tmp_path / "voc" / "JPEGImages").iterdir()}
    # Splits of one folder: names that are taken get the image's id.
    assert len(names) == 12 and {"turned", "turned-7"} <= names
    with pytest.raises(OutputError) as error:
        convert(str(source), "coco", tmp_path / "voc", ["test"])
    assert str(error.value) == (
        f"--output: {tmp_path / 'voc'} holds a conversion to another format, voc; choose another "
        "folder"
    )
    with pytest.raises(OutputError) as error:
        convert(str(source.with_name("other.json")), "voc", tmp_path / "voc", ["val"])
    assert str(error.value) == (
        f"--output: {tmp_path / 'voc'} holds a conversion of another source, {source} (split val); "
        "choose another folder"
    )
    with pytest.raises(OutputError) as error:
        convert("digits", "voc", tmp_path / "voc", ["val"])
    assert str(error.value).endswith("holds a conversion of other classes; choose another folder")


def test_an_interrupted_conversion_continues(source, tmp_path):
    folder = tmp_path / "out"
    convert(str(source), "yolo", folder, ["train"], copy=True)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    images = [path for path in files if path.parent.name == "train" and path.suffix != ".txt"]
    inodes = {path: path.stat().st_ino for path in images}
    # As after a crash: no list of the images yet, some files missing, one of an older write.
    manifest = json.loads((folder / "conversion.json").read_text())
    assert manifest["splits"]["train"]["complete"] is True
    manifest["splits"]["train"]["complete"] = False
    (folder / "conversion.json").write_text(json.dumps(manifest))
    (folder / "data.yaml").unlink()
    gone, damaged = images[0], images[1]
    gone.unlink()
    damaged.write_bytes(b"half")
    (folder / "labels" / "train" / "turned.txt").unlink()
    (folder / "images" / "train" / "partial.0123abcd.turned.jpg").write_bytes(b"half")
    convert(str(source), "yolo", folder, ["train"], copy=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    kept = {path for path in images if path.stat().st_ino == inodes[path]}
    assert kept >= set(images) - {gone, damaged, images[1].with_name("stored.jpg")}


def test_shards_that_are_there_are_kept(source, tmp_path):
    folder = tmp_path / "out"
    convert(str(source), "tfrecord", folder, ["train"], num_shards=3)
    shards = sorted(folder.glob("*.tfrecord"))
    assert [shard.name for shard in shards] == [
        f"train-0000{number}-of-00003.tfrecord" for number in range(3)
    ]
    before = [shard.stat().st_ino for shard in shards]
    content = shards[1].read_bytes()
    shards[1].unlink()
    convert(str(source), "tfrecord", folder, ["train"], num_shards=3)
    assert shards[1].read_bytes() == content
    after = [shard.stat().st_ino for shard in shards]
    assert (after[0], after[2]) == (before[0], before[2])
    with pytest.raises(OutputError) as error:
        convert(str(source), "tfrecord", folder, ["train"], num_shards=2)
    assert str(error.value) == (
        f"--output: {folder} holds a conversion to another number of shards, 3 (split train); "
        "choose another folder"
    )


def test_another_content_of_the_source_is_refused(source, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(source.parent, mine)
    folder = tmp_path / "out"
    convert(str(mine / "all.json"), "coco", folder, ["train"])
    os.utime(mine / "images" / "a.jpg", (1, 1))
    with pytest.raises(OutputError) as error:
        convert(str(mine / "all.json"), "coco", folder, ["train"])
    assert str(error.value) == (
        f"--output: {folder} holds a conversion of other images or objects (split train); "
        "choose another folder"
    )


def test_a_folder_of_somebody_else_is_not_touched(source, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError) as error:
        convert(str(source), "voc", tmp_path, ["train"])
    assert str(error.value) == (
        f"--output: {tmp_path} exists and was not written by this command; choose another name or "
        "folder, or move it away"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("format", ["voc", "csv"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "cat", "dog"), "class name 'cat': two categories have it; rename one"),
        (("cat ", "a", "b"), "class name 'cat ': is empty, or has control characters or spaces "),
        (("c\nat", "a", "b"), "class name 'c\\nat': is empty, or has control characters or spaces"),
    ],
)
def test_class_names_that_do_not_tell_categories_are_refused(
    source, tmp_path, format, names, message
):
    loaded = conversion.load(str(source), "train")
    label_map = dataclasses.replace(loaded.label_map, names=names)
    other = dataclasses.replace(loaded, label_map=label_map)
    with pytest.raises(DataError) as error:
        conversion.write_split(other, "x", "train", format, tmp_path / "out")
    assert str(error.value).startswith(message) and not (tmp_path / "out").exists()


def test_images_of_tfrecord_files_become_files(sets, tmp_path):
    convert(sets["tfrecord"], "voc", tmp_path / "out", ["train"])
    names = sorted(path.name for path in (tmp_path / "out" / "JPEGImages").iterdir())
    assert names == [
        *("000000000007.jpg", "000000000008.jpg", "000000000009.png", "000000000020.jpg"),
        *("000000000030.png", "000000000500.jpg"),
    ]


def test_a_real_set_survives_all_formats_in_turn(shared_data, tmp_path):
    path = str(shared_data / "bccd")
    before = conversion.load(path, "val")
    for format in ("tfrecord", "csv", "yolo", "voc", "coco"):
        convert(path, format, tmp_path / format, ["val"])
        path = str(tmp_path / format / "val.json" if format == "coco" else tmp_path / format)
    after = conversion.load(path, "val")
    assert (len(after), after.label_map.names) == (87, ("Platelets", "RBC", "WBC"))
    pairs = list(zip(before.records, after.records))
    assert sum(len(new.boxes) for _, new in pairs) == 1137
    for old, new in pairs:
        # One object has no width.
        boxes = old.boxes[~old.is_ignored]
        np.testing.assert_allclose(new.boxes, boxes, atol=1e-4)
        np.testing.assert_array_equal(new.classes, old.classes[~old.is_ignored])
