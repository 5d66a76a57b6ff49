"""The CenterPoint head as a module: names, losses, decoding, what it refuses."""

import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import iou_3d_of_pairs
from linzoo.pointcloud.heads import WAYMO_DECODING, CenterHead, Decoding, LossWeights
from linzoo.pointcloud.records import Labels

from .head_cases import GRID, STRIDE, assert_same_boxes, no_labels, some_boxes, some_labels

CLASSES = ("car", "pedestrian", "cyclist")
ANYWHERE = Decoding(limit=None, nms=None)


def head(**words) -> CenterHead:
    torch.manual_seed(0)
    settings = {"classes": CLASSES, "grid": GRID, "stride": STRIDE, "width": 8} | words
    return CenterHead(6, **settings)


def bev(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 6, 16, 32, generator=torch.Generator().manual_seed(5))


def perfect_maps(model: CenterHead, labels: list[Labels]) -> dict[str, torch.Tensor]:
    """Raw maps that say exactly what is labelled."""
    raw = {name: torch.zeros_like(value) for name, value in model(bev(len(labels))).items()}
    target = model.targets(raw, labels)
    raw["hm"] = torch.logit(target.heat.where(target.heat == 1, 0.0), eps=1e-6)
    start = 0
    for name, channels in model.code.items():
        at = (target.sample, slice(None), target.row, target.column)
        raw[name][at] = target.code[:, start : start + channels]
        start += channels
    if "iou" in raw:
        raw["iou"][:] = 1
    return raw


def test_the_parameters_have_the_official_names_and_shapes():
    names = {k: tuple(v.shape) for k, v in head(velocity=True, width=64).state_dict().items()}
    outputs = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1, "hm": 3}
    norm = {"weight": (64,), "bias": (64,), "running_mean": (64,), "running_var": (64,)}
    norm["num_batches_tracked"] = ()
    expected = {"shared_conv.0.weight": (64, 6, 3, 3)}
    expected |= {f"shared_conv.1.{k}": v for k, v in norm.items()}
    for branch, channels in outputs.items():
        expected[f"heads_list.0.{branch}.0.0.weight"] = (64, 64, 3, 3)
        expected |= {f"heads_list.0.{branch}.0.1.{k}": v for k, v in norm.items()}
        expected[f"heads_list.0.{branch}.1.weight"] = (channels, 64, 3, 3)
        expected[f"heads_list.0.{branch}.1.bias"] = (channels,)
    assert names == expected


def test_norms_and_first_biases_are_the_published_ones():
    model = head()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    branches = model.heads_list[0]
    assert branches.hm[1].bias.tolist() == pytest.approx([-2.19] * 3)
    assert not branches.center[1].bias.any()
    assert branches.center[0][0].bias is None and head(bias_before_norm=True).shared_conv[0].bias is not None


WITH_EVERYTHING = {"velocity": True, "losses": LossWeights(box_loss="diou")}


@pytest.mark.parametrize("box_loss", [None, "diou", "rotated"])
def test_every_parameter_gets_a_gradient(box_loss):
    model = head(velocity=True, losses=LossWeights(box_loss=box_loss))
    terms = model.loss(model(bev()), [some_labels(5, 1, 9), some_labels(9, 2, 9)])
    assert set(terms) == {"heatmap", "box", "iou"} | ({"overlap"} if box_loss else set())
    sum(terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_frames_without_labels_give_finite_losses_and_gradients():
    model = head(**WITH_EVERYTHING)
    terms = model.loss(model(bev()), [no_labels(9), no_labels(9)])
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert [terms[name].item() for name in ("box", "iou", "overlap")] == [0, 0, 0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.heads_list[0].hm[1].bias.grad.any()


@pytest.mark.parametrize("velocity", [False, True])
def test_maps_that_say_what_is_labelled_decode_to_the_labels(velocity):
    columns = 9 if velocity else 7
    model, labels = (
        head(velocity=velocity, decoding=ANYWHERE),
        [some_labels(20, 1, columns), no_labels(columns)],
    )
    found, nothing = model.decode(perfect_maps(model, labels))
    cell = model.targets(perfect_maps(model, labels), labels)
    expected = {
        (r, c): (b, k) for r, c, b, k in zip(cell.row.tolist(), cell.column.tolist(), *labels[0], strict=True)
    }
    assert len(found.boxes) == 20 and len(nothing.boxes) == 0
    for box, kind in zip(found.boxes, found.classes, strict=True):
        key = (int((box[1] + 4) / 0.5), int((box[0] + 8) / 0.5))
        assert_same_boxes(box[None], expected[key][0][None])
        assert kind == expected[key][1]
    assert nothing.boxes.shape == (0, columns)


def test_a_perfect_box_costs_nothing_and_a_turned_one_does():
    model, labels = head(losses=LossWeights(box_loss="rotated")), [some_labels(8, 3)]
    raw = perfect_maps(model, labels)
    terms = model.loss(raw, labels)
    for name in ("box", "iou", "overlap"):
        assert terms[name].item() == pytest.approx(0, abs=1e-4)
    opposite = raw | {"rot": -raw["rot"]}
    turned = model.loss(opposite, labels)
    yaw = labels[0].boxes[:, 6]
    assert turned["box"].item() == pytest.approx(
        2 * 2 * (yaw.cos().abs() + yaw.sin().abs()).mean().item(), rel=1e-4
    )
    assert turned["overlap"].item() == pytest.approx(0, abs=1e-4)  # a box overlaps itself turned by half


def loss_by_loops(model: CenterHead, raw: dict, labels: list[Labels]) -> dict[str, float]:
    """Box and overlap-branch terms, object by object."""
    box = iou = 0.0
    objects = sum(len(one.classes) for one in labels)
    for sample, (boxes, _) in enumerate(labels):
        for true in boxes:
            column, row = (true[0].item() + 8) / 0.5, (true[1].item() + 4) / 0.5
            at = (sample, slice(None), int(row), int(column))
            offset, z, dim, rot = (raw[name][at].double() for name in ("center", "center_z", "dim", "rot"))
            want = [
                column - int(column),
                row - int(row),
                true[2],
                *true[3:6].log(),
                true[6].cos(),
                true[6].sin(),
            ]
            errors = (torch.cat((offset, z, dim, rot)) - torch.tensor(want)).abs()
            box += errors.sum().item()
            if "vel" in raw:
                box += 0.2 * (raw["vel"][at] - true[7:9]).abs().sum().item()
            x, y = (int(column) + offset[0]) * 0.5 - 8, (int(row) + offset[1]) * 0.5 - 4
            said = torch.stack((x, y, z[0], *dim.exp(), torch.atan2(rot[1], rot[0])))[None]
            goal = 2 * iou_3d_of_pairs(said.detach(), true[None, :7].double()).item() - 1
            iou += abs(raw["iou"][at].item() - goal)
    return {"box": 2 * box / objects, "iou": iou / objects}


@pytest.mark.parametrize("velocity", [False, True])
def test_the_losses_are_a_loop_over_objects(velocity):
    columns = 9 if velocity else 7
    model, labels = head(velocity=velocity), [some_labels(6, 1, columns), some_labels(11, 2, columns)]
    raw = model(bev())
    terms, expected = model.loss(raw, labels), loss_by_loops(model, raw, labels)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def test_every_loss_weight_scales_its_term():
    labels, model = [some_labels(6, 1, 9)], head(**WITH_EVERYTHING)
    raw = model(bev(1))
    once = model.loss(raw, labels)
    doubled = LossWeights(heatmap=2.0, box=4.0, velocity=0.2, iou=2.0, overlap=4.0, box_loss="diou")
    model.losses = doubled
    for name, value in model.loss(raw, labels).items():
        assert value.item() == pytest.approx(2 * once[name].item(), rel=1e-5)
    model.losses = LossWeights(velocity=0.4, box_loss="diou")
    assert model.loss(raw, labels)["box"] > once["box"]


def test_unknown_velocities_teach_nothing():
    model, labels = head(velocity=True), some_labels(4, 1, 9)
    labels.boxes[:, 7:] = math.nan
    raw = model(bev(1))
    raw["vel"].retain_grad()
    raw["dim"].retain_grad()
    term = model.loss(raw, [labels])["box"]
    term.backward()
    assert term.isfinite() and not raw["vel"].grad.any() and raw["dim"].grad.any()


def test_two_samples_decode_as_two_separate_calls():
    model = head(decoding=Decoding(score=0.0)).eval()
    together = model.decode(model(bev()))
    for sample, one in zip(together, bev(), strict=True):
        (alone,) = model.decode(model(one[None]))
        for a, b in zip(sample, alone, strict=True):
            torch.testing.assert_close(a, b)


def test_a_batch_is_normalised_by_all_its_objects():
    model, labels = head().eval(), [some_labels(3, 1), some_labels(9, 2)]
    together = model.loss(model(bev()), labels)
    alone = [model.loss(model(one[None]), [own]) for one, own in zip(bev(), labels, strict=True)]
    for name in together:
        expected = (3 * alone[0][name] + 9 * alone[1][name]) / 12
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-5)


def test_scores_are_mixed_with_the_predicted_overlap_by_class():
    model = head(decoding=Decoding(iou_power=(0.68, 0.71, 0.65), nms=None, limit=None))
    raw = perfect_maps(model, [some_labels(12, 1)])
    raw["hm"] = torch.where(raw["hm"] > 0, torch.tensor(0.8).logit(), raw["hm"])
    raw["iou"][:] = 0.2  # on -1..1: an overlap of 0.6
    (found,) = model.decode(raw)
    for score, kind in zip(found.scores.tolist(), found.classes.tolist(), strict=True):
        a = (0.68, 0.71, 0.65)[kind]
        assert score == pytest.approx(0.8 ** (1 - a) * 0.6**a, rel=1e-5)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_the_score_limit_is_asked_before_the_overlap_is_mixed_in():
    model = head(decoding=Decoding(iou_power=0.9, nms=None, limit=None))
    raw = perfect_maps(model, [some_labels(12, 1)])
    raw["iou"][:] = -1  # overlap 0: the mixed scores are 0
    assert len(model.decode(raw)[0].scores) == 12


def test_the_worse_of_two_overlapping_boxes_of_a_class_goes():
    boxes = torch.tensor([[0.1, 0.1, 0.0, 4.0, 2.0, 1.5, 0.3], [0.7, 0.1, 0.0, 4.0, 2.0, 1.5, 0.3]])
    model = head(decoding=Decoding(nms=(0.5, 0.9, 0.5), limit=None))
    for kind, kept in ((0, 1), (1, 2)):
        raw = perfect_maps(model, [Labels(boxes, torch.tensor([kind, kind]))])
        assert len(model.decode(raw)[0].scores) == kept
    apart = perfect_maps(model, [Labels(boxes, torch.tensor([0, 2]))])
    assert len(model.decode(apart)[0].scores) == 2


def test_centres_beyond_the_limit_are_dropped():
    labels = [Labels(some_boxes(30, 2), torch.zeros(30, dtype=torch.int64))]
    model = head(decoding=Decoding(nms=None, limit=(-3.0, -2.0, -0.5, 4.0, 3.0, 0.5)))
    low, high = torch.tensor([-3.0, -2.0, -0.5]), torch.tensor([4.0, 3.0, 0.5])
    inside = ((labels[0].boxes[:, :3] >= low) & (labels[0].boxes[:, :3] <= high)).all(1).sum()
    assert 0 < inside < 30
    assert len(model.decode(perfect_maps(model, labels))[0].scores) == inside


def test_what_an_untrained_head_says_is_still_a_box():
    model = head(**WITH_EVERYTHING, decoding=Decoding(score=0.0))
    raw = {name: 1e4 * value for name, value in model(bev(1)).items()}
    terms = model.loss(raw, [some_labels(6, 1, 9)])
    assert all(term.isfinite() for term in terms.values())
    assert all(d.boxes.isfinite().all() for d in model.decode(raw))


def test_half_precision_maps_are_read_in_float32():
    model = head(**WITH_EVERYTHING)
    raw = {name: value.bfloat16() for name, value in model(bev(1)).items()}
    assert {term.dtype for term in model.loss(raw, [some_labels(4, 1, 9)]).values()} == {torch.float32}
    assert model.decode(raw)[0].boxes.dtype == torch.float32


def test_what_does_not_fit_is_refused():
    model, maps = head(), head()(bev())
    with pytest.raises(ShapeError, match=r"\(B, 6, 16, 32\).*got \(1, 6, 32, 16\)"):
        model(torch.zeros(1, 6, 32, 16))
    with pytest.raises(ValueError, match="each of the 2 samples, got 1"):
        model.loss(maps, [no_labels()])
    with pytest.raises(ValueError, match=r"labels\[1\].classes must be in 0 .. 2, got \[3\]"):
        model.loss(maps, [no_labels(), Labels(some_boxes(1, 0), torch.tensor([3]))])
    with pytest.raises(ValueError, match=r"labels\[0\].boxes must be \(K, >= 9\), got \(2, 7\)"):
        head(velocity=True).loss(maps, [some_labels(2, 0), no_labels(9)])
    broken = some_labels(2, 0)
    broken.boxes[1, 6] = math.nan
    with pytest.raises(ValueError, match=r"labels\[0\].boxes must be finite"):
        model.loss(maps, [broken, no_labels()])
    with pytest.raises(ValueError, match="one for each of the 5 classes"):
        head(classes=("a", "b", "c", "d", "e"), decoding=WAYMO_DECODING)
    with pytest.raises(ValueError, match="iou_power must be 0 without iou=True"):
        head(iou=False, decoding=WAYMO_DECODING)
    with pytest.raises(ValueError, match="box_loss must be one of"):
        LossWeights(box_loss="iou")
    with pytest.raises(ValueError, match="stride must be"):
        head(stride=0)
