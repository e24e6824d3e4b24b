"""Pascal VOC reader: valid folders, and messages about invalid ones."""

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError, voc

OBJECT = """<object><name>{name}</name><difficult>0</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""


def annotation(*objects: str, file_name: str = "") -> str:
    return (
        f"<annotation><filename>{file_name}</filename><size><width>64</width>"
        f"<height>48</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def thing(name="cat", xmin=10, ymin=5, xmax=30, ymax=35) -> str:
    return OBJECT.format(name=name, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


@pytest.fixture
def folder(tmp_path, write_image):
    """Two images for training and one for validation, with their annotations."""
    for stem, objects in (("a", [thing()]), ("b", [thing("dog")]), ("c", [thing("bird")])):
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        file = tmp_path / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(annotation(*objects, file_name=f"{stem}.jpg"))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c 1\n")
    return tmp_path


def test_reads_the_split_and_numbers_categories_by_name(folder):
    train, val = data.load(str(folder)), data.load(str(folder), split="val")
    assert train.label_map == val.label_map
    assert train.label_map.ids == (1, 2, 3)
    assert train.label_map.names == ("bird", "cat", "dog")
    assert [record.image_id for record in train.records] == [1, 2]
    assert [record.image_id for record in val.records] == [3]
    np.testing.assert_array_equal(train.records[0].boxes, [[5, 10, 35, 30]])
    np.testing.assert_array_equal(train.records[0].area, [600])
    np.testing.assert_array_equal(train.records[1].classes, [2])


def test_the_stem_of_an_annotation_is_before_its_filename(folder, write_image):
    """Images were renamed, and the names in the annotations are those of others now."""
    for stem, named in (("a", "b"), ("b", "a"), ("c", "elsewhere")):
        file = folder / "Annotations" / f"{stem}.xml"
        file.write_text(annotation(thing(stem), file_name=f"{named}.jpg"))
    (folder / "JPEGImages" / "c.jpg").rename(folder / "JPEGImages" / "elsewhere.jpg")
    names = [
        (record.name.rpartition("/")[2], loaded.label_map.names[record.classes[0]])
        for loaded in (data.load(str(folder), split=split) for split in ("train", "val"))
        for record in loaded.records
    ]
    assert names == [("a.jpg", "a"), ("b.jpg", "b"), ("elsewhere.jpg", "c")]


def test_names_differ_in_case_only_where_none_is_exact(folder, write_image):
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    (images / "a.jpg").rename(images / "A.JPG")
    (annotations / "a.xml").rename(annotations / "a.XML")
    (images / "b.jpg").rename(images / "IMG_1.Jpg")
    (annotations / "b.xml").write_text(annotation(thing("dog"), file_name="img_1.JPG"))
    loaded = data.load(str(folder))
    assert [record.name for record in loaded.records] == [
        *(f"{images}/A.JPG", f"{images}/IMG_1.Jpg")
    ]
    assert loaded.problems == () and loaded.label_map.names == ("bird", "cat", "dog")


def test_labels_txt_sets_the_categories(folder):
    (folder / "labels.txt").write_text("dog\ncat\n")
    assert data.load(str(folder)).label_map.names == ("dog", "cat")
    with pytest.raises(DataError) as error:
        data.load(str(folder), split="val", strict=True)
    bad = folder / "Annotations" / "c.xml"
    fault = "name: 'bird' is not a known category; ignored in training and evaluation"
    assert str(error.value) == f"{bad}: object 1: {fault}"


def test_a_folder_without_image_sets_is_one_split(folder):
    for file in (folder / "ImageSets" / "Main").iterdir():
        file.unlink()
    (folder / "ImageSets" / "Main").rmdir()
    (folder / "ImageSets").rmdir()
    assert len(data.load(str(folder))) == 3


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (thing(xmax=10), "bndbox: has no width or no height"),
        (thing(ymax=1), "bndbox: has no width or no height"),
        (thing(name=""), "name: '' is not a known category"),
    ],
)
def test_an_unusable_object_is_ignored_and_named(folder, bad, fault):
    file = folder / "Annotations" / "a.xml"
    file.write_text(annotation(thing(), bad, thing("dog"), file_name="a.jpg"))
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [
        f"{file}: object 2: {fault}; ignored in training and evaluation"
    ]
    assert loaded.records[0].is_ignored.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (thing(xmin=70, xmax=90), "lies outside the image of 64 x 48 pixels"),
        (thing(xmax="nan"), "is not finite"),
    ],
)
def test_an_image_with_an_object_of_unknown_position_is_excluded_and_named(folder, bad, fault):
    file = folder / "Annotations" / "a.xml"
    file.write_text(annotation(thing(), bad, file_name="a.jpg"))
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{file}: object 2: bndbox: {fault}; image excluded"]
    assert [record.image_id for record in loaded.records] == [2]


@pytest.mark.parametrize("bad", [thing(xmax=""), "<object><name>cat</name></object>"])
def test_an_image_with_an_object_without_a_box_is_excluded(folder, bad):
    file = folder / "Annotations" / "a.xml"
    file.write_text(annotation(thing(), bad, file_name="a.jpg"))
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [
        f"{file}: object 2: bndbox: must have the numbers ymin, xmin, ymax, xmax; image excluded"
    ]
    assert [record.image_id for record in loaded.records] == [2]


def test_difficult_objects_are_marked(folder):
    difficult = thing("dog").replace("<difficult>0<", "<difficult> 1 <")
    unsaid = thing("bird").replace("<difficult>0</difficult>", "")
    file = folder / "Annotations" / "a.xml"
    file.write_text(annotation(thing(), difficult, unsaid, file_name="a.jpg"))
    image = voc.read(str(folder), images="", split="train").images[0]
    assert image.is_difficult == [False, True, False]


def test_a_bad_record_is_excluded_and_named(folder):
    annotation_file = folder / "Annotations" / "a.xml"
    annotation_file.write_text("<annotation>\n<object>")
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{annotation_file}: line 2: not valid XML"]
    assert len(loaded) == 1
    annotation_file.unlink()
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{annotation_file}: annotation file is missing"]
    image = folder / "JPEGImages" / "b.jpg"
    image.unlink()
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert str(error.value) == (
        f"{folder} (train): has no usable image; "
        f"the first problem: {annotation_file}: annotation file is missing"
    )
    with pytest.raises(DataError, match="annotation file is missing"):
        data.load(str(folder), strict=True)


def test_byte_order_marks_cost_nothing(folder):
    (folder / "labels.txt").write_text("bird\ncat\ndog\n")
    lists = folder / "ImageSets" / "Main"
    for file in (folder / "labels.txt", lists / "train.txt", folder / "Annotations" / "a.xml"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    loaded = data.load(str(folder))
    assert loaded.problems == ()
    assert loaded.label_map.names == ("bird", "cat", "dog")
    assert [len(record.boxes) for record in loaded.records] == [1, 1]


def test_lists_in_another_encoding_are_an_error(folder):
    for file in (folder / "labels.txt", folder / "ImageSets" / "Main" / "train.txt"):
        file.write_bytes(b"\xe4\n")
        with pytest.raises(DataError) as error:
            data.load(str(folder))
        assert str(error.value) == f"{file}: not a text file in UTF-8"


def test_names_of_files_may_have_spaces(folder):
    for name in ("JPEGImages/a.jpg", "Annotations/a.xml"):
        file = folder / name
        file.rename(file.with_stem("a b"))
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a b\nb  1\n")
    loaded = data.load(str(folder))
    assert loaded.problems == ()
    assert [record.name[-7:] for record in loaded.records] == ["a b.jpg", "s/b.jpg"]


def test_an_annotation_in_an_unknown_encoding_is_named(folder):
    file = folder / "Annotations" / "a.xml"
    header = '<?xml version="1.0" encoding="{}"?>'
    for encoding, reason in (
        ("gb2312", "multi-byte encodings are not supported"),
        ("klingon", "unknown encoding: klingon"),
    ):
        file.write_text(header.format(encoding) + annotation(thing(), file_name="a.jpg"))
        assert list(data.load(str(folder)).problems) == [f"{file}: not valid XML: {reason}"]
    file.unlink()
    file.mkdir()
    assert list(data.load(str(folder)).problems) == [f"{file}: cannot be read: Is a directory"]
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\0\nb\n")
    assert list(data.load(str(folder)).problems) == [
        f"{folder / 'Annotations'}: file name 'a\\x00' holds control characters"
    ]


@pytest.mark.parametrize("place", ["images/", "images\\", "C:\\photos\\"])
def test_a_filename_may_be_a_path_of_any_system(folder, write_image, place):
    (folder / "Annotations" / "a.xml").write_text(annotation(thing(), file_name=f"{place}x.jpg"))
    (folder / "JPEGImages" / "a.jpg").unlink()
    write_image(folder / "JPEGImages" / "x.jpg")
    assert data.load(str(folder)).records[0].name == str(folder / "JPEGImages" / "x.jpg")


def test_an_image_is_found_by_the_name_of_its_annotation_too(folder, write_image):
    (folder / "JPEGImages" / "a.jpg").unlink()
    write_image(folder / "JPEGImages" / "a.png")
    assert data.load(str(folder)).records[0].name == str(folder / "JPEGImages" / "a.png")


def test_a_missing_split_or_folder_is_an_error(folder):
    with pytest.raises(DataError) as error:
        data.load(str(folder), split="test")
    list_file = folder / "ImageSets" / "Main" / "test.txt"
    assert str(error.value) == (
        f"{list_file}: no such file; it lists the images of the split 'test'"
    )
    (folder / "JPEGImages").rename(folder / "images")
    assert len(data.load(str(folder))) == 2
    (folder / "images").rename(folder / "photos")
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    missing = folder / "JPEGImages"
    assert str(error.value) == f"{missing}: no such folder; a Pascal VOC data set needs it"
    assert len(data.load(str(folder), images=str(folder / "photos"))) == 2


@pytest.mark.parametrize(("split", "bad"), [("train", "00343"), ("val", "00338")])
def test_the_blood_cells_agree_with_their_coco_form(shared_data, split, bad):
    root = shared_data / "bccd"
    voc = data.load(str(root), split=split, verify="header")
    coco = data.load(str(root / "annotations" / f"instances_{split}.json"), verify="header")
    # The two boxes without area are the only difference, and ignored.
    [problem] = voc.problems
    assert f"BloodImage_{bad}.xml: object " in problem
    fault = "bndbox: has no width or no height; ignored in training and evaluation"
    assert problem.endswith(fault)
    assert [record.image for record in voc.records] == [record.image for record in coco.records]
    for ours, theirs in zip(voc.records, coco.records):
        assert rows(ours, voc.label_map) == rows(theirs, coco.label_map)


def rows(record, label_map) -> list:
    kept = record.is_counted
    names = [label_map.names[index] for index in record.classes[kept]]
    return sorted(zip(names, record.boxes[kept].tolist(), record.area[kept].tolist()))


def test_xml_files_may_be_beside_their_images(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("beside")
    for stem, split in (("a", "train"), ("b", "train"), ("c", "valid")):
        (root / split).mkdir(exist_ok=True)
        for kind, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            (folder / kind / f"{stem}{suffix}").rename(root / split / f"{stem}{suffix}")
    assert data.format_name(str(root)) == "voc" and data.lacks_validation(str(root)) == ""
    train, val = data.load(str(root)), data.load(str(root), split="val")
    assert train.label_map == val.label_map and train.label_map.names == ("bird", "cat", "dog")
    assert [record.name for record in train.records] == [
        str(root / "train" / name) for name in ("a.jpg", "b.jpg")
    ]
    np.testing.assert_array_equal(val.records[0].boxes, [[5, 10, 35, 30]])
    with pytest.raises(DataError) as error:
        data.load(str(root), split="test")
    assert str(error.value) == f"{root}: no XML file of Pascal VOC in it"
    # A folder of its own.
    assert data.load(str(root / "valid")).label_map.names == ("bird",)
    reason = "a folder of XML files without a folder val"
    assert data.lacks_validation(str(root / "valid")) == reason
    # The file of CVAT is no annotation of Pascal VOC.
    for file in (root / "valid").glob("*.xml"):
        file.write_text("<annotations></annotations>")
    assert not voc.recognises(str(root / "valid"))


def test_each_annotation_file_is_read_once_and_none_besides_with_a_list_of_the_classes(
    folder, monkeypatch
):
    read, parse = [], voc._parse

    def counted(file, problems):
        read.append(file.name)
        return parse(file, problems)

    monkeypatch.setattr(voc, "_parse", counted)
    data.read_annotations(str(folder))
    assert sorted(read) == ["a.xml", "b.xml", "c.xml"]
    read.clear()
    (folder / "labels.txt").write_text("dog\ncat\n")
    data.read_annotations(str(folder))
    assert read == ["a.xml", "b.xml"]


def test_a_task_of_cvat_without_splits_is_a_single_split(folder, write_image):
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    # A frame in a folder of the task.
    write_image(folder / "JPEGImages" / "deep" / "d.jpg")
    (folder / "Annotations" / "deep").mkdir()
    text = annotation(thing("owl"), file_name="deep/d.jpg")
    (folder / "Annotations" / "deep" / "d.xml").write_text(text)
    (lists / "default.txt").write_text("a\ndeep/d\n")
    loaded = data.load(str(folder))
    assert [record.name for record in loaded.records] == [
        str(folder / "JPEGImages" / name) for name in ("a.jpg", "deep/d.jpg")
    ]
    assert loaded.label_map.names == ("bird", "cat", "dog", "owl")
    assert data.lacks_validation(str(folder)) == "ImageSets/Main/val.txt is missing"
