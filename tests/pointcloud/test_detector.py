"""Whole detectors: points in, boxes out; names, forms, weights from files."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from linzoo.pointcloud import (
    Detections,
    Detector,
    Labels,
    create_detector,
    detector_config,
    list_detectors,
)
from linzoo.pointcloud.checkpoints import load_checkpoint, load_part, to_official
from linzoo.pointcloud.data.raycast import Sensor
from linzoo.pointcloud.data.synthetic import SceneOptions, SyntheticScenes

from ..parity_fill import figures

THIN = SceneOptions(sensor=Sensor(beams=16, azimuths=64))
SMALL = ("lion_retnet_small", "scatterformer_small")


@pytest.fixture(scope="module")
def frames():
    scenes = SyntheticScenes(options=THIN)
    return [scenes[0], scenes[1]]


def small(name):
    """A detector of the same parts, cheap to run."""
    torch.manual_seed(0)
    if name.startswith("lion"):
        return create_detector(name, channels=32, groups=(64, 64, 32, 32), out_group=32)
    return create_detector(name, layers=1)


@pytest.mark.parametrize("name", SMALL)
def test_points_become_boxes_and_every_parameter_learns(name, frames):
    detector = small(name)
    points, labels = [f.points for f in frames], [f.labels for f in frames]
    sum(detector.loss(points, labels).values()).backward()
    still = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    still = [n for n in still if not n.endswith("pos_embedding.weight")]  # heights that no pillar has
    assert not still
    found = detector.eval().detect(points)
    assert len(found) == 2 and all(isinstance(each, Detections) for each in found)
    for each in found:
        assert each.boxes.shape == (len(each.scores), 7) and (each.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_frames_side_by_side_are_frames_alone(name, frames):
    detector = small(name).eval()
    with torch.no_grad():
        both = detector([f.points for f in frames])
        alone = [detector([f.points]) for f in frames]
    for part, rows in both.items():
        torch.testing.assert_close(rows, torch.cat([each[part] for each in alone]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_frame_with_no_points_and_one_with_no_labels_are_frames_too(name, frames):
    detector = small(name)
    nothing = Labels(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    terms = detector.loss([frames[0].points, torch.zeros(0, 4)], [nothing, nothing])
    assert all(term.isfinite() for term in terms.values())
    assert len(detector.eval().detect([torch.zeros(0, 4)])) == 1


def test_the_order_of_the_points_changes_nothing(frames):
    detector = small("lion_retnet_small").eval()
    points = frames[0].points
    with torch.no_grad():
        one, other = detector([points]), detector([points[torch.randperm(len(points))]])
    for part in one:
        torch.testing.assert_close(one[part], other[part], rtol=1e-4, atol=1e-4)


def test_every_detector_by_name_can_be_built():
    names = list_detectors()
    assert len(names) == len(set(names)) > 30 and list_detectors("lion_*_kitti") == sorted(
        f"lion_{operator}_kitti" for operator in ("mamba", "mlstm", "retnet", "rwkv", "ttt")
    )
    for name in names:
        with torch.device("meta"):
            detector = create_detector(name)
        assert detector.dense_head.classes == detector_config(name).classes


@pytest.mark.parametrize(
    ("name", "backbone", "neck", "count"),
    [
        ("scatterformer_waymo", "scatterformer_waymo", "cascade_ded_neck", 4_241_856),
        ("scatterformer_nuscenes", None, "cascade_ded_neck", 4_245_184),
        ("lion_mamba_waymo_large", "lion_Mamba_128", None, 10_041_856),
        ("lion_retnet_waymo", None, "base_bev_res_backbone_waymo", 3_336_832),
        ("lion_rwkv_kitti", None, None, 4_331_392),
        ("lion_ttt_kitti", None, None, 2_819_624),
        ("lion_mlstm_kitti", None, None, 3_478_816),
    ],
)
def test_parts_have_the_published_sizes_and_names(name, backbone, neck, count):
    shapes = figures("pointcloud_checkpoint_shapes")
    with torch.device("meta"):
        detector = create_detector(name)
    assert sum(p.numel() for p in detector.backbone_3d.parameters()) == count
    for part, key in (("backbone_3d", backbone), ("backbone_2d", neck)):
        listed = shapes[key] if key else {}
        own = {n: list(t.shape) for n, t in getattr(detector, part).state_dict().items()}
        for official, shape in (listed.get("state_dict") or listed.get("linear_out_and_first") or {}).items():
            assert own[official] == shape, official


@pytest.mark.parametrize("form", ["safetensors", "training", "official"])
def test_weights_come_back_from_every_kind_of_file(form, tmp_path):
    torch.manual_seed(1)
    source = create_detector("scatterformer_small", layers=1)
    path = tmp_path / {"safetensors": "w.safetensors", "training": "last.pth.tar", "official": "w.pth"}[form]
    if form == "safetensors":
        save_file(source.state_dict(), path)
    elif form == "training":
        torch.save({"detector": "scatterformer_small", "state_dict": source.state_dict()}, path)
    else:
        state = to_official(source)
        state["model_state"]["global_step"] = torch.zeros(1, dtype=torch.int64)
        torch.save({**state, "epoch": 3, "it": 9}, path)
    loaded = create_detector("scatterformer_small", layers=1, checkpoint=path)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_part_alone_can_be_filled_from_a_whole_file():
    source, target = (create_detector("scatterformer_small", layers=1) for _ in range(2))
    load_part(target.backbone_2d, to_official(source), "backbone_2d")
    for name, tensor in source.backbone_2d.state_dict().items():
        assert torch.equal(tensor, target.backbone_2d.state_dict()[name])


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    source = create_detector("scatterformer_small", layers=1)
    state = dict(source.state_dict())
    state["dense_head.extra"] = torch.zeros(2)
    del state["backbone_3d.app.norm.weight"]
    torch.save(state, tmp_path / "odd.pth")
    target = create_detector("scatterformer_small", layers=1)
    before = {n: t.clone() for n, t in target.state_dict().items()}
    wanted = r"missing: backbone_3d\.app\.norm\.weight; not its own: dense_head\.extra"
    with pytest.raises(ValueError, match=wanted):
        load_checkpoint(target, tmp_path / "odd.pth")
    torch.save({**source.state_dict(), "backbone_3d.app.norm.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"app\.norm\.weight of shape \(32,\), got \(3,\)"):
        load_checkpoint(target, tmp_path / "odd.pth")
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: create_detector("lion_retnet_kiti"), ValueError, "did you mean 'lion_retnet_kitti'"),
        (lambda: create_detector("lion_retnet_small", padding="zero"), ValueError, "padding"),
        (lambda: create_detector("lion_retnet_small", windw=3), TypeError, "windw"),
        (lambda: create_detector("lion_retnet_small", checkpoint="no.pth"), FileNotFoundError, "no.pth"),
        (lambda: small(SMALL[1]).loss([torch.zeros(1, 4)], []), ValueError, "labels must be one for each"),
        (lambda: small(SMALL[1])([torch.zeros(1, 5)]), ValueError, "points must have 4 values"),
    ],
)
def test_wrong_words_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_config_with_another_backbone_is_another_detector():
    config = detector_config("lion_retnet_small")
    changed = config.with_backbone(operator="linear")
    assert changed.backbone.operator == "linear" and config.backbone.operator == "retnet"
    assert replace(config, classes=("Car",)).classes == ("Car",)
    assert isinstance(Detector(changed), Detector)
