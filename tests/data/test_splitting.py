"""Splitting: stratified, reproducible, with groups on one side, in the source's own format."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data import DataError, conversion, stratification
from efficientdet_tf.data.conversion import convert
from efficientdet_tf.data.splitting import split
from efficientdet_tf.output_files import OutputError

COUNT = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """COCO file of different images, but for a scaled copy of the first, with fields of its own."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "images").mkdir()
    content = {
        "info": {"year": 2026},
        "licenses": [{"id": 3}],
        "categories": [{"id": 5, "name": "cat", "supercategory": "pet"}, {"id": 9, "name": "dog"}],
        "images": [],
        "annotations": [],
    }
    for number in range(1, COUNT + 1):
        seed = 1 if number == COUNT else number
        noise = np.random.default_rng(seed).integers(0, 255, (6, 8), np.uint8)
        size = (80, 60) if number == COUNT else (64, 48)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert("RGB")
        name = f"cam{number % 7}_{number:02}.png"
        image.save(folder / "images" / name)
        content["images"].append({"id": number, "file_name": name, "license": 3})
        content["annotations"] += [
            {
                "id": 10 * number + i,
                "image_id": number,
                "category_id": 9 if number % 5 == 0 else 5,
                "bbox": [1, 2, 30, 20.5],
                "segmentation": [[1, 2, 31, 2, 31, 22]],
                "score_of_mine": 0.5,
            }
            for i in range(2)
        ]
    (folder / "all.json").write_text(json.dumps(content))
    return folder / "all.json"


def names(path, part) -> list[str]:
    return sorted(Path(r.name).name for r in conversion.load(str(path), part).records)


def test_classes_are_shared_out_and_groups_stay_together():
    random = np.random.default_rng(0)
    classes = random.random((1000, 4)) < [0.5, 0.1, 0.02, 0.0]
    groups = np.arange(1000) // 3
    is_val = stratification.divide(classes, groups.tolist(), 0.2, seed=1)
    assert abs(int(is_val.sum()) - 200) <= 3
    share = classes[is_val].sum(axis=0) / np.maximum(1, classes.sum(axis=0))
    np.testing.assert_allclose(share, [0.2, 0.2, 0.2, 0], atol=0.03)
    assert all(len(set(is_val[groups == group])) == 1 for group in range(334))
    again = stratification.divide(classes, groups.tolist(), 0.2, seed=1)
    other = stratification.divide(classes, groups.tolist(), 0.2, seed=2)
    assert (again == is_val).all() and not (other == is_val).all()


def test_a_set_that_cannot_be_divided_is_an_error():
    with pytest.raises(DataError) as error:
        stratification.divide(np.ones((3, 1), np.int64), [0, 0, 0], 0.5, seed=0)
    assert str(error.value) == "--val_fraction: 1 groups of images cannot be divided by 0.5"


def test_groups_are_named_by_an_expression():
    paths = ["a/cam1_1.jpg", "a/cam2_1.jpg", "a/cam1_2.jpg"]
    assert stratification.group_numbers(paths, r"cam(\d)_") == [0, 1, 0]
    assert stratification.group_numbers(paths, r"_\d") == [0, 0, 2]
    assert stratification.join_groups([0, 1, 0, 3], [0, 1, 2, 1]) == [0, 1, 0, 1]
    with pytest.raises(DataError) as error:
        stratification.group_numbers(paths, r"cam1_(\d)")
    assert str(error.value) == r"--by: 'cam1_(\\d)' is not found in a/cam2_1.jpg"
    with pytest.raises(DataError) as error:
        stratification.group_numbers(paths, "(")
    assert str(error.value).startswith("--by: '(' is not a regular expression: missing )")


def test_coco_entries_keep_all_their_fields(source, tmp_path):
    divided = split(str(source), tmp_path / "out", val_fraction=0.25)
    before = json.loads(source.read_text())
    parts = [json.loads((tmp_path / "out" / f"{s}.json").read_text()) for s in ("train", "val")]
    assert [len(part["images"]) for part in parts] == [15, 5] and divided.format == "coco"
    for key in ("images", "annotations"):
        found = sorted((e for part in parts for e in part[key]), key=lambda entry: entry["id"])
        for entry in found:
            if key == "images":
                entry["file_name"] = entry["file_name"].rpartition("/")[2]
        assert found == before[key]
    for part in parts:
        assert [part[k] for k in ("info", "licenses", "categories")] == [
            before[k] for k in ("info", "licenses", "categories")
        ]
    # The scaled copy is on the side of its original.
    ids = [{image["id"] for image in part["images"]} for part in parts]
    assert divided.num_groups == COUNT - 1 and {1, COUNT} & ids[0] in (set(), {1, COUNT})
    loaded = [data.load(str(tmp_path / "out" / f"{s}.json")) for s in ("train", "val")]
    dogs = [sum(int((r.classes == 1).any()) for r in part.records) for part in loaded]
    assert dogs == [3, 1]


def test_coco_entries_in_a_folder_reached_by_a_link_name_existing_files(source, tmp_path):
    (tmp_path / "real" / "deep" / "disk").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep" / "disk")
    split(str(source), tmp_path / "link" / "parts", val_fraction=0.25)
    content = json.loads((tmp_path / "link" / "parts" / "train.json").read_text())
    files = [tmp_path / "link" / "parts" / image["file_name"] for image in content["images"]]
    assert len(files) == 15 and all(file.is_file() for file in files)


def test_the_same_call_gives_the_same_and_another_is_refused(source, tmp_path):
    first, second = (
        split(str(source), tmp_path / name, val_fraction=0.25, seed=3).parts for name in "ab"
    )
    ids = [[record.image_id for record in parts["val"].records] for parts in (first, second)]
    assert ids[0] == ids[1]
    split(str(source), tmp_path / "a", val_fraction=0.25, seed=3)
    with pytest.raises(OutputError) as error:
        split(str(source), tmp_path / "a", val_fraction=0.25, seed=4)
    assert str(error.value) == (
        f"--output: {tmp_path / 'a'} holds a conversion of other images or objects (split "
        "train); choose another folder"
    )


def test_groups_of_an_expression_are_not_divided(source, tmp_path):
    divided = split(str(source), tmp_path / "out", val_fraction=0.25, by=r"(cam\d)")
    cameras = [
        {Path(record.name).name[:4] for record in part.records} for part in divided.parts.values()
    ]
    assert not cameras[0] & cameras[1] and all(cameras)
    # Camera 1 has the original, camera 6 the copy.
    assert divided.num_groups == 6


@pytest.mark.parametrize("format", ["yolo", "voc", "csv", "tfrecord"])
def test_other_formats_are_split_in_their_own(source, tmp_path, format):
    convert(str(source), format, tmp_path / "in", ["train"])
    before = conversion.load(str(tmp_path / "in"), "train")
    divided = split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25)
    assert divided.format == data.format_name(str(tmp_path / "out")) == format
    assert data.lacks_validation(str(tmp_path / "out")) == ""
    parts = [conversion.load(str(tmp_path / "out"), part) for part in ("train", "val")]
    assert [len(part) for part in parts] == [15, 5]
    boxes = {id_of(record): record.boxes for part in parts for record in part.records}
    assert boxes.keys() == {id_of(record) for record in before.records} and len(boxes) == COUNT
    for record in before.records:
        np.testing.assert_allclose(boxes[id_of(record)], record.boxes, atol=1e-5)
    assert parts[0].label_map == parts[1].label_map == before.label_map


def id_of(record):
    return Path(record.image).stem if isinstance(record.image, str) else record.image_id


def test_yolo_lists_the_images_and_keeps_other_keys(source, tmp_path):
    convert(str(source), "yolo", tmp_path / "in", ["train"])
    file = tmp_path / "in" / "data.yaml"
    content = yaml.safe_load(file.read_text()) | {"path": "x", "kpt_shape": [2, 3], "mine": 7}
    file.write_text(yaml.safe_dump(content))
    split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25)
    written = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert written == {
        **{"train": "train.txt", "val": "val.txt", "names": content["names"]},
        **{"kpt_shape": [2, 3], "mine": 7},
    }
    lines = (tmp_path / "out" / "val.txt").read_text().splitlines()
    assert len(lines) == 5 and all(Path(line).is_absolute() for line in lines)


def test_voc_files_keep_all_their_fields(source, tmp_path):
    convert(str(source), "voc", tmp_path / "in", ["train"])
    file = next((tmp_path / "in" / "Annotations").iterdir())
    file.write_text(file.read_text().replace("<difficult>", "<pose>Left</pose><difficult>"))
    split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25, copy=True)
    written = tmp_path / "out" / "Annotations" / file.name
    assert written.read_bytes() == file.read_bytes() and not written.samefile(file)


def test_two_voc_files_of_one_image_are_refused(source, tmp_path):
    convert(str(source), "voc", tmp_path / "in", ["train"])
    file = min((tmp_path / "in" / "Annotations").iterdir())
    file.with_name("twin.xml").write_bytes(file.read_bytes())
    names = tmp_path / "in" / "ImageSets" / "Main" / "train.txt"
    names.write_text(names.read_text() + "twin\n")
    with pytest.raises(DataError) as error:
        split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25)
    assert str(error.value) == (
        f"{tmp_path / 'in'}: 2 images have an image file named {file.stem}.png; convert the data "
        "set to COCO before, with 'data convert --to=coco'"
    )
    assert not list((tmp_path / "out").rglob("*.xml"))


def test_csv_rows_keep_all_their_columns(source, tmp_path):
    convert(str(source), "csv", tmp_path / "in", ["train"])
    file = tmp_path / "in" / "train-annotations-bbox.csv"
    file.write_text(file.read_text().replace("IsInside", "IsInside,Mine").replace("-1\n", "-1,7\n"))
    split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25)
    rows = [
        (tmp_path / "out" / f"{part}-annotations-bbox.csv").read_text().splitlines()
        for part in ("train", "validation")
    ]
    assert rows[0][0] == rows[1][0] == file.read_text().splitlines()[0]
    assert sorted(rows[0][1:] + rows[1][1:]) == sorted(file.read_text().splitlines()[1:])


def test_csv_files_of_other_columns_are_joined(source, tmp_path):
    convert(str(source), "csv", tmp_path / "in", ["train"])
    file = tmp_path / "in" / "train-annotations-bbox.csv"
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    other = file.with_name("more-train-annotations-bbox.csv")
    with other.open("w") as opened:
        columns = ["Mine", *reversed(rows[0])]
        writer = csv.DictWriter(opened, columns, restval="7")
        writer.writeheader()
        writer.writerows(rows[:10])
    with file.open("w") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[10:])
    before = data.load(str(tmp_path / "in"))
    split(str(tmp_path / "in"), tmp_path / "out", val_fraction=0.25)
    parts = [data.load(str(tmp_path / "out"), split=part) for part in ("train", "val")]
    boxes = {r.name.rpartition("/")[2]: r.boxes for part in parts for r in part.records}
    for record in before.records:
        np.testing.assert_array_equal(boxes[record.name.rpartition("/")[2]], record.boxes)


def test_the_first_of_repeated_image_ids_is_kept(source, tmp_path):
    content = json.loads(source.read_text())
    first = content["images"][0]
    content["images"].append({**first, "file_name": content["images"][1]["file_name"]})
    copy = source.with_name("repeated.json")
    copy.write_text(json.dumps(content))
    split(str(copy), tmp_path / "out", val_fraction=0.25)
    entries = [
        entry
        for part in ("train", "val")
        for entry in json.loads((tmp_path / "out" / f"{part}.json").read_text())["images"]
        if entry["id"] == first["id"]
    ]
    assert [Path(entry["file_name"]).name for entry in entries] == [first["file_name"]]


def test_what_has_no_writer_is_written_as_coco(tmp_path):
    divided = split("digits", tmp_path / "out", val_fraction=0.5, part="val")
    assert divided.format == "coco" and divided.lost == []
    loaded = [data.load(str(tmp_path / "out" / f"{part}.json")) for part in ("train", "val")]
    assert len(loaded[0]) + len(loaded[1]) == 160 and abs(len(loaded[0]) - 80) < 5


def test_numbers_that_only_python_reads_are_kept(source, tmp_path):
    text = source.read_text().replace('"score_of_mine": 0.5', '"score_of_mine": NaN', 1)
    file = source.with_name("nan.json")
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    split(str(file), tmp_path / "out", val_fraction=0.25)
    parts = [(tmp_path / "out" / f"{part}.json").read_text() for part in ("train", "val")]
    assert sum(part.count("NaN") for part in parts) == 1
    assert sum(len(json.loads(part)["annotations"]) for part in parts) == 2 * COUNT
