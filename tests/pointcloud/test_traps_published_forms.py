"""What the two papers' detectors do differently, by name: a form built like the other one fits every file.

Their weights have the same names and shapes either way, so only these settings tell the forms apart.
"""

from functools import cache

import pytest
import torch
from torch import nn

from linzoo.pointcloud import create_detector, detector_config, list_detectors
from linzoo.pointcloud.heads import AnchorHead, CenterHead, TransFusionHead
from linzoo.pointcloud.heads.box_terms import overlap_loss
from linzoo.pointcloud.heads.options import LossWeights
from linzoo.pointcloud.necks import CascadeDed, ResidualFpn, SecondNeck
from linzoo.pointcloud.records import Labels
from linzoo.pointcloud.voxels import VoxelGrid

SETS = ("waymo", "waymo_large", "nuscenes", "once", "kitti")
LION = [f"lion_retnet_{form}" for form in SETS]
SCATTERFORMER = ["scatterformer_nuscenes", "scatterformer_waymo"]
FORMS = pytest.mark.parametrize("name", [*LION, *SCATTERFORMER])
GRID = VoxelGrid(point_range=(-8.0, -4.0, -2.0, 8.0, 4.0, 4.0), voxel_size=(0.25, 0.25, 0.5))


@cache
def built(name):
    """On the meta device: no weights are made."""
    with torch.device("meta"):
        return create_detector(name)


def data_set(name: str) -> str:
    return name.removesuffix("_large").split("_")[-1]


@pytest.mark.parametrize("form", SETS)
def test_the_forms_of_lion_differ_in_the_operator_alone(form):
    names, first = list_detectors(f"lion_*_{form}"), detector_config(f"lion_retnet_{form}")
    assert len(names) == 5
    for name in names:
        own = detector_config(name).backbone
        changes = {"operator": own.operator, "operator_words": own.operator_words}
        assert detector_config(name) == first.with_backbone(**changes)


@pytest.mark.parametrize("name", ["lion_retnet_nuscenes", "scatterformer_nuscenes"])
def test_border_axes_and_height_of_transfusion_are_each_authors_own(name):
    """LION's patches wrap round the border, its maps have x along rows, it regresses the top of a box."""
    head = built(name).dense_head
    assert isinstance(head, TransFusionHead)
    wanted = ("wrap", True, "top") if name.startswith("lion") else ("clamp", False, "centre")
    assert (head.decoder.border, head.swap_axes, head.height) == wanted
    assert (head.queries, head.decoder.radius, head.decoder.self_attn.num_heads) == (200, 20, 8)


@FORMS
def test_loss_weights_are_each_authors_own(name):
    losses, scatterformer = built(name).dense_head.losses, name.startswith("scatterformer")
    if data_set(name) == "kitti":
        assert (losses.classes, losses.box, losses.direction) == (1, 2, 0.2)
        return
    box = {"waymo": 2, "once": 1, "nuscenes": 0.25}[data_set(name)]
    iou = {"waymo": 1, "once": 1, "nuscenes": 0.5}[data_set(name)]
    assert (losses.heatmap, losses.classes, losses.box, losses.iou, losses.velocity) == (1, 1, box, iou, 0.2)
    assert losses.box_loss == ("diou" if scatterformer else None)
    if scatterformer:
        assert losses.overlap == {"waymo": 2, "nuscenes": 0.5}[data_set(name)]


@FORMS
def test_scores_and_suppression_are_those_of_the_data_set(name):
    head = built(name).dense_head
    decoding, kind = head.decoding, data_set(name)
    if kind == "waymo":
        assert tuple(c.lower() for c in head.classes) == ("vehicle", "pedestrian", "cyclist")
        assert (head.powers, head.thresholds) == ((0.68, 0.71, 0.65), (0.75, 0.6, 0.55))
        assert (decoding.top, decoding.score, decoding.pre, decoding.post) == (500, 0.1, 4096, 500)
        assert decoding.limit == (-80, -80, -10, 80, 80, 10)
    elif kind == "nuscenes":
        crowded = {"pedestrian": 0.175, "traffic_cone": 0.175}
        assert set(crowded) < set(head.classes) and len(head.classes) == 10
        assert head.thresholds == tuple(crowded.get(c) for c in head.classes) and set(head.powers) == {0.5}
        assert head.everywhere == tuple(c in crowded for c in head.classes)
    elif kind == "kitti":
        assert decoding.nms == 0.01


@FORMS
def test_only_what_waymo_measures_without_a_bound_passes_through_tanh(name):
    encoder = built(name).vfe
    assert encoder.tanh == ((3, 4) if data_set(name) == "waymo" else ())
    assert encoder.point_features == (5 if data_set(name) in ("waymo", "nuscenes") else 4)


@FORMS
def test_necks_and_strides_give_the_published_maps(name):
    detector, kind = built(name), data_set(name)
    neck = detector.backbone_2d
    if name.startswith("scatterformer"):
        assert isinstance(neck, CascadeDed) and len(neck.layers) == 4
    else:
        assert isinstance(neck, ResidualFpn if kind in ("waymo", "nuscenes") else SecondNeck)
        assert neck.in_channels == 2 * detector.config.backbone.channels  # two cells of height
    heads = {"waymo": CenterHead, "once": CenterHead, "nuscenes": TransFusionHead, "kitti": AnchorHead}
    assert isinstance(detector.dense_head, heads[kind])
    sizes = {"waymo": (472, 472), "nuscenes": (180, 180), "once": (376, 376), "kitti": (400, 352)}
    if name == "scatterformer_waymo":
        sizes["waymo"] = (240, 240)
    assert detector.dense_head.cells.shape == sizes[kind]


@pytest.mark.parametrize("name", LION)
def test_windows_and_groups_shrink_from_block_to_block(name):
    config = detector_config(name).backbone
    assert config.windows == ((32, 13, 13), (16, 13, 13), (8, 13, 13), (4, 13, 13))
    assert config.groups == (4096, 2048, 1024, 512)
    assert (config.out_window, config.out_group, config.bev_windows) == ((2, 13, 13), 256, ())
    assert (config.generate_share, config.generate_ways, config.padding) == (0.2, 4, "repeat")


@pytest.mark.parametrize(("name", "window"), [("scatterformer_waymo", 12), ("scatterformer_nuscenes", 20)])
def test_windows_of_scatterformer_are_as_high_as_the_grid_and_its_convolutions_one_cell_longer(name, window):
    backbone = built(name).backbone_3d
    for layer in (backbone.stage1[0], backbone.stage2[0]):
        assert layer.window == window and len(layer.attn_layers) == 3
        assert {attention.heads for attention in layer.attn_layers} == {4}
        for part in layer.cffn_layers:
            assert part.conv_h.kernel_size == (1, 1, window + 1)
            assert part.conv_w.kernel_size == (1, window + 1, 1)


NOT_THE_DETECTORS = ("pos_emb_list",)  # LION's position embeddings: torch's defaults


@FORMS
def test_batch_norms_have_the_detectors_epsilon_and_momentum_everywhere_else(name):
    seen = set()
    for place, module in built(name).named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            own = any(part in place for part in NOT_THE_DETECTORS)
            assert (module.eps, module.momentum) == ((1e-5, 0.1) if own else (1e-3, 0.01)), place
            seen.add(place.split(".")[0])
    wanted = {"vfe", "backbone_3d", "backbone_2d", "dense_head"}
    assert seen == wanted - ({"dense_head"} if name.endswith("kitti") else set())


def test_the_overlap_loss_of_scatterformer_does_not_see_headings():
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0.3]])
    turned = boxes + torch.tensor([0.5, 0.2, 0, 0, 0, 0, 0.9])
    straight = turned.clone()
    straight[:, 6] = 0
    assert overlap_loss("diou", boxes, turned) == overlap_loss("diou", boxes, straight)
    assert abs(overlap_loss("rotated", boxes, turned) - overlap_loss("rotated", boxes, straight)) > 0.01


def test_the_branch_that_predicts_the_overlap_does_not_train_the_boxes():
    torch.manual_seed(0)
    words = {"classes": ("a", "b"), "grid": GRID, "stride": 2, "width": 8}
    head = CenterHead(6, losses=LossWeights(), **words)
    boxes = torch.tensor([[1.0, 0.5, 0, 4, 2, 1.5, 0.3]])
    raw = {part: x.detach().requires_grad_() for part, x in head(torch.randn(1, 6, 16, 32)).items()}
    at = (slice(None), slice(None), 9, 18)  # where the head is to find the box, and nearly does
    for part, values in {"center_z": [0.1], "dim": [1.3, 0.6, 0.3], "rot": [1.0, 0.2]}.items():
        raw[part].data[at] = torch.tensor([values])
    head.loss(raw, [Labels(boxes, torch.tensor([0]))])["iou"].backward()
    assert raw["iou"].grad.any()
    assert [part for part, x in raw.items() if part != "iou" and x.grad is not None and x.grad.any()] == []
