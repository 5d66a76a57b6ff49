"""What is wrong with a COCO file is said before training, with the place where it stands."""

import copy
import json

import pytest

from linzoo.tools.detection.annotation_checks import (
    check_classes,
    check_objects,
    check_records,
    read_annotations,
)

RIGHT = {
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 1, 2, 3], "area": 6}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cup"}],
}


def changed(*path, value=None, remove=False) -> dict:
    """``RIGHT`` with another value, or none, at ``path``."""
    content = copy.deepcopy(RIGHT)
    place = content
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_a_right_file_passes(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RIGHT))
    content = read_annotations(tmp_path / "a.json", "ann_file")
    assert content == RIGHT
    check_records(content, "a.json")
    check_classes(content, ("cat", "cup"), "a.json")
    check_classes(content, ("cup",), "a.json")  # a part of the categories
    check_objects(content, ("cup",), "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a list 'images'"),
        ('{"images": [], "annotations": []}', "must hold a list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "its list of images is empty"),
        ("\udcff", "is not JSON"),
    ],
    ids=["broken", "a-list", "no-categories", "no-images", "no-text"],
)
def test_a_file_that_is_no_coco_file_is_refused(text, message, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "a.json", "train_dataloader.dataset.ann_file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("images", 0, "file_name", remove=True), "image number 0 lacks file_name"),
        (changed("annotations", 0, "bbox", remove=True), "annotation number 0 lacks bbox"),
        (changed("categories", 1, "name", remove=True), "category number 1 lacks name"),
        (changed("categories", 1, "id", value=1), "category ids must be unique, 1 is there twice"),
        (changed("annotations", 0, "image_id", value=7), "annotation 1 has image_id 7, which is not in the"),
        (changed("annotations", 0, "category_id", value=7), "annotation 1 has category_id 7"),
        (
            changed("annotations", 0, "bbox", value=[0, 1, 2]),
            r"bbox must be \[x, y, width, height\], got \[0",
        ),
        (changed("annotations", 0, "bbox", value=[0, 1, 2, float("nan")]), "bbox must be"),
        (changed("annotations", 0, "bbox", value=[0, 1, 2, "3"]), "bbox must be"),
        (changed("images", 0, value="a.png"), "image number 0 lacks id"),
    ],
    ids=["file-name", "box", "name", "ids", "image", "category", "three", "nan", "text", "no-object"],
)
def test_a_record_that_mmdetection_could_not_read_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        check_records(content, "a.json")


def test_a_class_that_the_file_does_not_have_is_named():
    with pytest.raises(
        ValueError, match=r"3 classes, 1 of them are not among the file's 2 categories \(dog\)"
    ):
        check_classes(RIGHT, ("cat", "dog", "cup"), "a.json")


def test_classes_in_another_order_are_refused_because_labels_would_change_names():
    with pytest.raises(ValueError, match=r"order of the file's categories \(cat, cup\), got cup, cat"):
        check_classes(RIGHT, ("cup", "cat"), "a.json")


def test_mmdetection_does_number_the_classes_as_the_file_does(tmp_path):
    """The reason for the refusal: told "cup, cat", mmdetection still calls the cup number 1."""
    pytest.importorskip("mmdet")
    from mmdet.datasets import CocoDataset

    import linzoo.vision.detection  # noqa: F401

    (tmp_path / "a.json").write_text(json.dumps(RIGHT))
    dataset = CocoDataset(
        ann_file=str(tmp_path / "a.json"),
        data_prefix={"img": ""},
        metainfo={"classes": ("cup", "cat")},
        pipeline=[],
    )
    assert dataset.metainfo["classes"][dataset[0]["instances"][0]["bbox_label"]] == "cat"  # it is a cup


@pytest.mark.parametrize("annotations", [[], [{"category_id": 1}]], ids=["none", "of-another-class"])
def test_a_file_without_objects_to_train_on_is_refused(annotations):
    with pytest.raises(ValueError, match="is an object of a class to train on"):
        check_objects({**RIGHT, "annotations": annotations}, ("cup",), "a.json")
