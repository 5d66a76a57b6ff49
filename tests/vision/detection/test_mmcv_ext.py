"""The stand-in for mmcv's compiled operators: NMS and RoIAlign by hand and by torchvision; what it lacks."""

import subprocess
import sys

import pytest
import torch
import torchvision

pytest.importorskip("mmdet")

import linzoo.vision.detection  # noqa: F401
from linzoo.vision.detection import mmcv_ext

STAND_IN = sys.modules["mmcv._ext"].__spec__.loader is None
needs_stand_in = pytest.mark.skipif(not STAND_IN, reason="a compiled mmcv is installed: it is not replaced")


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def random_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(count, 2) * 60
    return torch.cat((corner, corner + 4 + torch.rand(count, 2) * 40), 1), torch.rand(count)


# NMS


def iou(a: list[float], b: list[float], offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    shared = max(width, 0) * max(height, 0)
    return shared / (sum(areas) - shared)


def kept_by_definition(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_keeps_what_the_definition_keeps_best_first(threshold, offset):
    boxes, scores = random_boxes(80)
    kept = mmcv_ext.nms(boxes.double(), scores.double(), threshold, offset)
    assert kept.tolist() == kept_by_definition(boxes.double(), scores.double(), threshold, offset)


def test_the_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])  # IoU 0, or 2 / 6 with whole pixels
    scores = torch.tensor([0.9, 0.8])
    assert mmcv_ext.nms(boxes, scores, 0.3, 0).tolist() == [0, 1]
    assert mmcv_ext.nms(boxes, scores, 0.3, 1).tolist() == [0]
    assert boxes[0].tolist() == [0.0, 0.0, 1.0, 1.0]  # the caller's boxes stay as they were


@needs_stand_in
def test_mmcv_s_own_nms_runs_on_it():
    from mmcv.ops import batched_nms, nms

    boxes, scores = random_boxes(60)
    found, kept = nms(boxes, scores, iou_threshold=0.5, offset=1)
    assert kept.tolist() == kept_by_definition(boxes, scores, 0.5, 1)
    assert torch.equal(found, torch.cat((boxes, scores[:, None]), 1)[kept])
    classes = torch.arange(60) % 2  # boxes of different classes do not suppress each other
    _, kept = batched_nms(boxes, scores, classes, {"type": "nms", "iou_threshold": 0.5})
    each = [(classes == c).nonzero().flatten() for c in (0, 1)]
    alone = [i[torchvision.ops.nms(boxes[i], scores[i], 0.5)] for i in each]
    assert sorted(kept.tolist()) == sorted(torch.cat(alone).tolist())


# RoIAlign


@needs_stand_in
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_mmcv_s_roi_align_and_its_gradient_are_torchvision_s(ratio, aligned):
    from mmcv.ops import RoIAlign

    boxes, _ = random_boxes(7)
    rois = torch.cat((torch.randint(0, 2, (7, 1)).float(), boxes), 1)
    x = torch.randn(2, 3, 20, 24, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours = RoIAlign((5, 4), 0.25, ratio, aligned=aligned)(x, rois)
    theirs = torchvision.ops.roi_align(y, rois, (5, 4), 0.25, ratio, aligned)
    weight = torch.randn_like(theirs)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(x.grad, y.grad)


@needs_stand_in
def test_roi_align_reads_a_plane_where_it_is():
    from mmcv.ops import RoIAlign

    ys, xs = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    plane = (2 * xs + 3 * ys)[None, None]  # linear: an average over a bin is the value at its centre
    roi = torch.tensor([[0.0, 8.0, 16.0, 40.0, 32.0]])  # x 2..10, y 4..8 in the map of stride 4
    got = RoIAlign((2, 4), 0.25, 2, aligned=True)(plane, roi)[0, 0]
    centre_x, centre_y = torch.tensor([3.0, 5.0, 7.0, 9.0]) - 0.5, torch.tensor([5.0, 7.0]) - 0.5
    assert torch.allclose(got, 2 * centre_x[None] + 3 * centre_y[:, None])


@needs_stand_in
def test_maximum_pooling_is_refused_by_name():
    from mmcv.ops import RoIAlign

    with pytest.raises(NotImplementedError, match="roi_align_forward: pool_mode"):
        RoIAlign((2, 2), pool_mode="max")(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]))


# what it lacks, and when it steps back


@needs_stand_in
def test_an_absent_operator_can_be_imported_and_says_its_name_when_called():
    from mmcv.ops import DeformConv2d, soft_nms

    boxes, scores = random_boxes(4)
    with pytest.raises(NotImplementedError, match="'softnms' needs a compiled mmcv"):
        soft_nms(boxes, scores)
    with pytest.raises(NotImplementedError, match="'deform_conv_forward'"):
        DeformConv2d(3, 4, 3, padding=1)(torch.ones(1, 3, 8, 8), torch.zeros(1, 18, 8, 8))
    assert not hasattr(sys.modules["mmcv._ext"], "__file__")


def test_installing_again_changes_nothing():
    before = sys.modules["mmcv._ext"]
    assert mmcv_ext.install() is STAND_IN
    assert sys.modules["mmcv._ext"] is before


def test_a_compiled_mmcv_is_not_replaced(tmp_path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").write_text("")
    (tmp_path / "mmcv" / "_ext.py").write_text("compiled = True")
    done = python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('ext', {mmcv_ext.__file__!r})\n"
        "ext = importlib.util.module_from_spec(spec); spec.loader.exec_module(ext)\n"
        "assert ext.install() is False\n"
        "import mmcv._ext; assert mmcv._ext.compiled; assert ext.install() is False"
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_backbones_brings_no_mmdet_and_no_stand_in():
    done = python(
        "import sys, linzoo.vision\n"
        "assert not {'mmdet', 'mmcv', 'mmengine', 'mmcv._ext', 'linzoo.vision.detection'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
