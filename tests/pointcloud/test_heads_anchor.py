"""The anchor head: anchors, assignment, losses and decoding against loops, and what it refuses."""

import itertools
import math

import pytest
import torch

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import overlaps_bev
from linzoo.pointcloud.heads import (
    KITTI_ANCHORS,
    KITTI_DECODING,
    Anchor,
    AnchorHead,
    AnchorLossWeights,
    Decoding,
)
from linzoo.pointcloud.heads import anchor_targets as assignment
from linzoo.pointcloud.heads.anchor_targets import anchor_targets
from linzoo.pointcloud.heads.anchors import anchor_boxes, decode, direction_of, encode
from linzoo.pointcloud.heads.cells import MapCells
from linzoo.pointcloud.heads.flat_labels import FlatLabels
from linzoo.pointcloud.records import Labels

from .head_cases import GRID, STRIDE, angle_between, assert_same_boxes, no_labels, some_boxes, some_labels

CELLS = MapCells(grid=GRID, stride=STRIDE)
ANCHORS = tuple(KITTI_ANCHORS.values())


def head(**words) -> AnchorHead:
    torch.manual_seed(0)
    return AnchorHead(6, **{"anchors": KITTI_ANCHORS, "grid": GRID, "stride": STRIDE} | words)


def bev(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 6, 16, 32, generator=torch.Generator().manual_seed(5))


def car_like(count: int, seed: int) -> Labels:
    """Boxes near the anchors' sizes, of all three classes."""
    labels = some_labels(count, seed)
    sizes = torch.tensor([a.size for a in ANCHORS])[labels.classes]
    labels.boxes[:, 3:6] = sizes * (
        0.9 + 0.2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    )
    return labels


def flat(labels: Labels) -> FlatLabels:
    return FlatLabels(torch.zeros_like(labels.classes), labels.boxes, labels.classes)


def test_an_anchor_of_each_size_stands_at_two_yaws_in_the_middle_of_every_cell():
    boxes = anchor_boxes(ANCHORS, CELLS)
    assert boxes.shape == (16, 32, 3, 2, 7)
    for row, column, kind, turn in itertools.product((0, 9, 15), (0, 20, 31), range(3), range(2)):
        x, y = -8 + (column + 0.5) * 0.5, -4 + (row + 0.5) * 0.5
        z = ANCHORS[kind].bottom + ANCHORS[kind].size[2] / 2
        expected = torch.tensor([x, y, z, *ANCHORS[kind].size, turn * math.pi / 2])
        torch.testing.assert_close(boxes[row, column, kind, turn], expected)


def test_kittis_anchors_are_the_commonly_published_ones():
    table = {name: (a.size, a.bottom, a.matched, a.unmatched) for name, a in KITTI_ANCHORS.items()}
    assert table == {
        "car": ((3.9, 1.6, 1.56), -1.78, 0.6, 0.45),
        "pedestrian": ((0.8, 0.6, 1.73), -0.6, 0.5, 0.35),
        "cyclist": ((1.76, 0.6, 1.73), -0.6, 0.5, 0.35),
    }


def test_encoding_and_decoding_give_the_box_back_at_every_yaw():
    boxes = some_boxes(80, 3).double()
    boxes[:, 6] = torch.linspace(-7, 7, 80)
    anchors = anchor_boxes(ANCHORS, CELLS).double().view(-1, 7)[torch.arange(80) * 37]
    code = encode(boxes, anchors)
    assert_same_boxes(decode(code, anchors, direction_of(boxes[:, 6])), boxes, 1e-9)
    other = decode(code, anchors, 1 - direction_of(boxes[:, 6]))
    assert (angle_between(other[:, 6], boxes[:, 6]) - math.pi).abs().max() < 1e-9


def test_the_code_is_in_units_of_the_anchor():
    anchor = torch.tensor([[1.0, 2.0, 3.0, 3.0, 4.0, 2.0, 0.5]])
    box = torch.tensor([[6.0, -3.0, 4.0, 6.0, 2.0, 2.0, 0.7]])
    expected = torch.tensor([[1.0, -1.0, 0.5, math.log(2), math.log(0.5), 0.0, 0.2]])
    torch.testing.assert_close(encode(box, anchor), expected)


def assignment_by_pairs(labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Label and trained of every anchor, from a table of every anchor against every box."""
    boxes = anchor_boxes(ANCHORS, CELLS)
    upright = labels.boxes.clone()
    for box in upright:
        quarter = round(box[6].item() / (math.pi / 2))
        box[6] = (quarter % 2) * math.pi / 2
    label, trained = torch.full(boxes.shape[:-1], -1), torch.ones(boxes.shape[:-1], dtype=torch.bool)
    for kind, anchor in enumerate(ANCHORS):
        own = (labels.classes == kind).nonzero()[:, 0]
        if len(own) == 0:
            continue
        mine = boxes[:, :, kind].reshape(-1, 7)
        table = overlaps_bev(mine.double(), upright[own].double())
        for a, row in enumerate(table):
            place = (a // 64, a // 2 % 32, kind, a % 2)
            k = int(row.argmax())
            needed = ((row > 0) & (row >= table.amax(0) - 1e-6)).any()
            if row[k] >= anchor.matched or needed:
                label[place] = own[k]
            elif row[k] >= anchor.unmatched:
                trained[place] = False
    return label, trained


@pytest.mark.parametrize("seed", [1, 4])
def test_the_assignment_is_that_of_a_table_of_all_pairs(seed):
    labels = car_like(14, seed)
    target = anchor_targets(flat(labels), 1, ANCHORS, CELLS)
    label, trained = assignment_by_pairs(labels)
    assert torch.equal(target.label[0], label)
    assert torch.equal(target.trained[0], trained)
    assert not trained.all() and (label >= 0).any()


def test_every_box_has_an_anchor_of_its_class_however_little_they_overlap():
    labels = Labels(some_boxes(10, 6), torch.arange(10) % 3)
    labels.boxes[:, 3:6] = 0.3  # far smaller than any anchor
    label = anchor_targets(flat(labels), 1, ANCHORS, CELLS).label
    for k in range(10):
        kinds = (label == k).nonzero()[:, 3]
        assert len(kinds) > 0 and (kinds == labels.classes[k]).all()


def test_assigning_in_chunks_gives_the_same_anchors(monkeypatch):
    known = flat(car_like(14, 1))
    whole = anchor_targets(known, 1, ANCHORS, CELLS)
    monkeypatch.setattr(assignment, "CHUNK", 1)
    for a, b in zip(anchor_targets(known, 1, ANCHORS, CELLS), whole, strict=True):
        assert torch.equal(a, b)


def loss_by_loops(raw: dict, labels: list[Labels]) -> dict[str, float]:
    """Anchor by anchor in plain numbers."""
    sums = {"classes": 0.0, "box": 0.0, "direction": 0.0}
    boxes = anchor_boxes(ANCHORS, CELLS)
    for sample, one in enumerate(labels):
        target = anchor_targets(flat(one), 1, ANCHORS, CELLS)
        objects = max(1, int((target.label >= 0).sum()))
        for place in itertools.product(range(16), range(32), range(3), range(2)):
            k = target.label[0][place].item()
            if target.trained[0][place]:
                for c, logit in enumerate(raw["classes"][sample][place].tolist()):
                    p = 1 / (1 + math.exp(-logit))
                    right = k >= 0 and c == place[2]
                    loss = -0.25 * (1 - p) ** 2 * math.log(p) if right else -0.75 * p**2 * math.log(1 - p)
                    sums["classes"] += loss / objects
            if k < 0:
                continue
            goal = encode(one.boxes[k : k + 1], boxes[place][None])[0].tolist()
            for i, said in enumerate(raw["box"][sample][place].tolist()):
                e = abs(math.sin(said - goal[i])) if i == 6 else abs(said - goal[i])
                sums["box"] += (4.5 * e * e if e < 1 / 9 else e - 1 / 18) / objects
            first = 0 <= (one.boxes[k, 6].item() - math.pi / 4) % (2 * math.pi) < math.pi
            a, b = raw["direction"][sample][place].tolist()
            sums["direction"] += math.log(1 + math.exp(b - a if first else a - b)) / objects
    weights = {"classes": 1.0, "box": 2.0, "direction": 0.2}
    return {name: weights[name] * value / len(labels) for name, value in sums.items()}


def test_the_losses_are_a_loop_over_anchors():
    model, labels = head(), [car_like(6, 1), car_like(3, 2)]
    raw = {name: value.detach() for name, value in model(bev()).items()}
    raw["box"] = 100 * raw["box"]
    terms = model.loss(raw, labels)
    for name, value in loss_by_loops(raw, labels).items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def perfect_maps(model: AnchorHead, labels: list[Labels]) -> dict[str, torch.Tensor]:
    raw = {name: torch.zeros_like(value) for name, value in model(bev(len(labels))).items()}
    raw["classes"][:] = -20
    anchors = anchor_boxes(ANCHORS, CELLS)
    for sample, one in enumerate(labels):
        label = anchor_targets(flat(one), 1, ANCHORS, CELLS).label[0]
        at = (label >= 0).nonzero().unbind(1)
        boxes = one.boxes[label[at]]
        raw["box"][(sample, *at)] = encode(boxes, anchors[at])
        raw["direction"][(sample, *at, direction_of(boxes[:, 6]))] = 20.0
        raw["classes"][(sample, *at, at[2])] = 15.0 - label[at]
    return raw


def test_maps_that_say_what_is_labelled_decode_to_the_labels():
    model, labels = head(), [car_like(8, 1), no_labels()]
    labels[0].boxes[:, 0] = torch.linspace(-7, 7, 8)  # apart: nothing is suppressed
    labels[0].boxes[:, 1] = torch.tensor([-2.5, 2.5]).repeat(4)
    found, nothing = model.decode(perfect_maps(model, labels))
    assert_same_boxes(found.boxes, labels[0].boxes)
    assert found.classes.tolist() == labels[0].classes.tolist()
    assert nothing.boxes.shape == (0, 7)


def test_half_a_turn_is_the_directions_affair_alone():
    model, labels = head(), [car_like(8, 1)]
    raw = perfect_maps(model, labels)
    terms = model.loss(raw, labels)
    assert all(term.item() == pytest.approx(0, abs=1e-4) for term in terms.values())
    turned = raw["box"].clone()
    turned[..., 6] += math.pi
    assert model.loss(raw | {"box": turned}, labels)["box"].item() == pytest.approx(0, abs=1e-4)
    other = model.loss(raw | {"direction": raw["direction"].flip(-1)}, labels)
    assert other["direction"].item() == pytest.approx(0.2 * 20, rel=1e-3)


def test_the_worse_of_two_overlapping_boxes_goes_whatever_its_class():
    boxes = torch.tensor([[0.1, 0.1, -1.0, 3.9, 1.6, 1.56, 0.0], [0.3, 0.1, -1.0, 1.76, 0.6, 1.73, 0.0]])
    labels = [Labels(boxes, torch.tensor([0, 2]))]
    assert head().decode(perfect_maps(head(), labels))[0].classes.tolist() == [0]
    lax = head(decoding=Decoding(top=4096, limit=None, nms=1.0))
    assert set(lax.decode(perfect_maps(lax, labels))[0].classes.tolist()) == {0, 2}


def test_every_parameter_gets_a_gradient_and_frames_without_labels_finite_losses():
    model = head()
    sum(model.loss(model(bev()), [car_like(5, 1), no_labels()]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    terms = model.loss(model(bev()), [no_labels(), no_labels()])
    assert terms["classes"] > 0 and terms["box"] == 0 and terms["direction"] == 0
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_two_samples_are_the_mean_of_two_separate_calls():
    model, labels = head(), [car_like(3, 1), car_like(9, 2)]
    together = model.loss(model(bev()), labels)
    alone = [model.loss(model(one[None]), [own]) for one, own in zip(bev(), labels, strict=True)]
    for name, value in together.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)


def test_every_loss_weight_scales_its_term():
    model, labels = head(), [car_like(3, 1)]
    raw = model(bev(1))
    once = model.loss(raw, labels)
    model.losses = AnchorLossWeights(classes=2.0, box=6.0, direction=0.8)
    for name, factor in {"classes": 2, "box": 3, "direction": 4}.items():
        assert model.loss(raw, labels)[name].item() == pytest.approx(factor * once[name].item(), rel=1e-5)


def test_the_published_convolutions_have_their_shapes():
    model = AnchorHead(512, anchors=KITTI_ANCHORS, grid=GRID, stride=STRIDE)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    expected = {}
    for name, channels in {"conv_cls": 18, "conv_box": 42, "conv_dir_cls": 12}.items():
        expected |= {f"{name}.weight": (channels, 512, 1, 1), f"{name}.bias": (channels,)}
    assert shapes == expected
    assert KITTI_DECODING.nms == 0.01


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size must be three lengths"):
        Anchor(size=(1.0, 0.0, 1.0), bottom=0.0, matched=0.6, unmatched=0.4)
    with pytest.raises(ValueError, match="unmatched <= matched"):
        Anchor(size=(1.0, 1.0, 1.0), bottom=0.0, matched=0.4, unmatched=0.6)
    with pytest.raises(ValueError, match="iou_power must be 0"):
        head(decoding=Decoding(iou_power=0.5, nms=0.01))
    with pytest.raises(ValueError, match="nms must be one overlap"):
        head(decoding=Decoding(nms=(0.1, 0.1, 0.1)))
    with pytest.raises(ShapeError, match="AnchorHead: the map must be"):
        head()(torch.zeros(1, 6, 8, 8))
    with pytest.raises(ValueError, match=r"classes must be in 0 .. 2"):
        head().loss(head()(bev(1)), [Labels(some_boxes(1, 0), torch.tensor([5]))])
