"""What detectors, grids and files of weights are given from Python and cannot take is named."""

import numpy as np
import pytest
import torch

from linzoo.pointcloud import Labels, VoxelGrid, create_detector
from linzoo.pointcloud.checkpoints import load_checkpoint, load_part, to_official

BOXES, CLASSES = torch.tensor([[9.0, 1.0, -1.0, 4.0, 2.0, 1.5, 0.3]]), torch.tensor([0])
FAR = BOXES + torch.tensor([500.0, 0, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return create_detector("scatterformer_small", layers=1)


def points():
    return torch.rand(50, 4) * torch.tensor([20.0, 10.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (Labels(BOXES, CLASSES), TypeError, r"labels must be a list with an entry a frame, got Labels"),
        ([(BOXES, CLASSES)], TypeError, r"labels\[0\] must be Labels\(boxes, classes\), got tuple"),
        ([None], TypeError, r"labels\[0\] must be Labels\(boxes, classes\), got NoneType"),
        ([Labels(BOXES.numpy(), CLASSES)], TypeError, r"labels\[0\].boxes must be a tensor, got ndarray"),
        ([Labels(BOXES[0], CLASSES)], ValueError, r"labels\[0\].boxes must be \(K, >= 7\), got \(7,\)"),
        ([Labels(BOXES[:, :6], CLASSES)], ValueError, r"labels\[0\].boxes must be \(K, >= 7\), got \(1, 6\)"),
        ([Labels(BOXES, CLASSES[:0])], ValueError, r"labels\[0\].classes must be \(1,\) int64, .* \(0,\)"),
        ([Labels(BOXES, CLASSES.int())], ValueError, r"classes must be \(1,\) int64, .* torch.int32"),
        ([Labels(BOXES, CLASSES + 3)], ValueError, r"labels\[0\].classes must be in 0 .. 2, got \[3\]"),
        ([Labels(BOXES * float("nan"), CLASSES)], ValueError, r"labels\[0\].boxes must be finite"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_labels_of_another_form_are_named_with_their_frame(detector, labels, error, message):
    with pytest.raises(error, match=message):
        detector.loss([points()], labels)


def test_points_without_their_list_are_named(detector):
    with pytest.raises(TypeError, match="points must be a list with an entry a frame, got Tensor"):
        detector.loss(points(), [Labels(BOXES, CLASSES)])


def test_boxes_outside_the_grid_and_without_extent_are_passed_by(detector):
    flat = BOXES * torch.tensor([1.0, 1, 1, 1, 0, 1, 1])
    for boxes in (FAR, flat):
        terms = detector.loss([points()], [Labels(boxes, CLASSES)])
        assert float(terms["box"].detach()) == 0 and terms["heatmap"].isfinite()


@pytest.mark.parametrize(
    ("range_", "size", "error", "message"),
    [
        ((0, 0, 0, 1, 1, float("inf")), (1, 1, 1), ValueError, "point_range must be six lengths"),
        (
            (0, 0, 0, 1, 1, 1),
            (3, 1, 1),
            ValueError,
            r"voxel_size must fit into point_range .* got \(3, 1, 1\)",
        ),
        ((0, 0, 0, 1, 1, 1), 0.1, TypeError, "voxel_size must be a tuple of metres, got 0.1"),
    ],
)
def test_a_grid_has_cells_and_ends(range_, size, error, message):
    with pytest.raises(error, match=message):
        VoxelGrid(point_range=range_, voxel_size=size)


def test_a_backbone_without_layers_is_refused():
    with pytest.raises(ValueError, match="layers must be at least 1, got -1"):
        create_detector("scatterformer_small", layers=-1)


def changed(detector, change):
    state = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    state["vfe.pfn_layers.0.norm.bias"] = change(state["vfe.pfn_layers.0.norm.bias"])
    return {"model_state": state}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda bias: bias * np.nan,
            r"finite numbers, vfe\.pfn_layers\.0\.norm\.bias has NaN or infinite ones",
        ),
        (lambda bias: bias.long(), r"vfe\.pfn_layers\.0\.norm\.bias as torch\.float32, got torch\.int64"),
    ],
)
def test_weights_that_are_no_numbers_are_named_and_change_nothing(detector, tmp_path, change, message):
    torch.save(changed(detector, change), tmp_path / "odd.pth")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(detector, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"vfe of the checkpoint must h.* pfn_layers\.0\.norm\.bias"):
        load_part(detector.vfe, changed(detector, change), "vfe")
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize("size", [0, 40, 5000, -100], ids=["empty", "head", "part", "end gone"])
def test_a_file_of_weights_that_is_cut_short_is_named(detector, tmp_path, size):
    torch.save(to_official(detector), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"cut\.pth cannot be read: it is damaged, cut short, or was not written"
    ):
        load_checkpoint(detector, tmp_path / "cut.pth")
