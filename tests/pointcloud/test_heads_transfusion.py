"""The TransFusion head as a module: names, axes, losses, decoding, what it refuses."""

import math

import pytest
import torch
from torch import nn

from linzoo.kernels import ShapeError
from linzoo.pointcloud.boxes import iou_3d_of_pairs
from linzoo.pointcloud.heads import NUSCENES_LOSSES, Decoding, LossWeights, TransFusionHead
from linzoo.pointcloud.heads.center_targets import center_targets
from linzoo.pointcloud.heads.query_code import decode, encode
from linzoo.pointcloud.losses import gaussian_focal_loss
from linzoo.pointcloud.records import Labels

from .head_cases import GRID, STRIDE, assert_same_boxes, no_labels, some_boxes, some_labels

CLASSES = ("car", "pedestrian", "traffic_cone")
SCATTERFORMER = {"border": "clamp", "swap_axes": False, "height": "centre"}
LION = {"border": "wrap", "swap_axes": True, "height": "top"}
DETECTORS = pytest.mark.parametrize("words", [SCATTERFORMER, LION], ids=["scatterformer", "lion"])


def head(words: dict = SCATTERFORMER, **changes) -> TransFusionHead:
    torch.manual_seed(0)
    small = {"queries": 12, "width": 16, "heads": 2, "hidden": 24, "radius": 2}
    return TransFusionHead(
        6, **{"classes": CLASSES, "grid": GRID, "stride": STRIDE} | small | words | changes
    )


def bev(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 6, 16, 32, generator=torch.Generator().manual_seed(5))


def perfect_maps(model: TransFusionHead, labels: list[Labels]) -> dict[str, torch.Tensor]:
    """What the head would say if its first queries stood for the labels, and the others for nothing."""
    raw = {name: value.detach().clone() for name, value in model(bev(len(labels))).items()}
    raw["heatmap"][:] = -20
    raw["query_score"][:] = 0
    for sample, (boxes, kinds) in enumerate(labels):
        count = torch.arange(len(boxes))
        code, start = encode(boxes, model.cells, model.height), 0
        for name, channels in model.code.items():
            raw[name][sample, :, : len(boxes)] = code[:, start : start + channels].T
            start += channels
        raw["query_class"][sample, : len(boxes)] = kinds
        raw["query_score"][sample, : len(boxes)] = 0.5 + 0.04 * count
        raw["heatmap"][sample, kinds, count] = 20.0
        raw["iou"][sample] = 1
    return raw


def test_the_parameters_have_the_official_names_and_shapes():
    model = TransFusionHead(
        384, classes=[f"class{i}" for i in range(10)], grid=GRID, stride=STRIDE, **SCATTERFORMER
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    norm = {"weight", "bias"}
    expected = {"shared_conv.weight": (128, 384, 3, 3), "shared_conv.bias": (128,)}
    expected |= {"heatmap_head.0.conv.weight": (128, 128, 3, 3)}
    expected |= {f"heatmap_head.0.bn.{k}": (128,) for k in norm}
    expected |= {"heatmap_head.1.weight": (10, 128, 3, 3), "heatmap_head.1.bias": (10,)}
    expected |= {"class_encoding.weight": (128, 10, 1), "class_encoding.bias": (128,)}
    for attn in ("self_attn", "multihead_attn"):
        expected |= {f"decoder.{attn}.in_proj_weight": (384, 128), f"decoder.{attn}.in_proj_bias": (384,)}
        expected |= {f"decoder.{attn}.out_proj.weight": (128, 128), f"decoder.{attn}.out_proj.bias": (128,)}
    expected |= {"decoder.linear1.weight": (256, 128), "decoder.linear1.bias": (256,)}
    expected |= {"decoder.linear2.weight": (128, 256), "decoder.linear2.bias": (128,)}
    expected |= {f"decoder.norm{i}.{k}": (128,) for i in (1, 2, 3) for k in norm}
    for embed in ("self_posembed", "cross_posembed"):
        at = f"decoder.{embed}.position_embedding_head"
        expected |= {f"{at}.0.weight": (128, 2, 1), f"{at}.0.bias": (128,)}
        expected |= {f"{at}.1.{k}": (128,) for k in norm}
        expected |= {f"{at}.3.weight": (128, 128, 1), f"{at}.3.bias": (128,)}
    outputs = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1, "heatmap": 10}
    for name, channels in outputs.items():
        at = f"prediction_head.{name}"
        expected |= {f"{at}.0.0.weight": (64, 128, 1), f"{at}.1.weight": (channels, 64, 1)}
        expected |= {f"{at}.0.1.{k}": (64,) for k in norm} | {f"{at}.1.bias": (channels,)}
    assert shapes == expected
    assert model.decoder.multihead_attn.num_heads == 8 and model.decoder.radius == 20 and model.queries == 200


@DETECTORS
@pytest.mark.parametrize("box_loss", ["diou", "rotated"])
def test_every_parameter_gets_a_gradient(words, box_loss):
    """The projections inside the attentions too, which the authors' code never handed to the optimiser."""
    model = head(words, losses=LossWeights(box=0.25, iou=0.5, box_loss=box_loss))
    terms = model.loss(model(bev()), [some_labels(5, 1, 9), some_labels(9, 2, 9)])
    assert set(terms) == {"heatmap", "classes", "box", "iou", "overlap"}
    sum(terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_frames_without_labels_give_finite_losses_and_gradients():
    model = head(losses=LossWeights(box_loss="diou"))
    terms = model.loss(model(bev()), [no_labels(9), no_labels(9)])
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert [terms[name].item() for name in ("box", "iou", "overlap")] == [0, 0, 0]
    assert terms["classes"] > 0 and terms["heatmap"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("height", ["centre", "top"])
@pytest.mark.parametrize("columns", [7, 9])
def test_encoding_and_decoding_give_the_box_back_at_every_yaw(height, columns):
    boxes = some_boxes(60, 3, columns)
    boxes[:, 6] = torch.linspace(-7, 7, 60)
    cells = head().cells
    code = encode(boxes, cells, height)
    assert_same_boxes(decode(code, cells, height), boxes)
    torch.testing.assert_close(code[:, 6], boxes[:, 6].sin())
    torch.testing.assert_close(code[:, 7], boxes[:, 6].cos())
    torch.testing.assert_close(code[:, 2], boxes[:, 2] + (boxes[:, 5] / 2 if height == "top" else 0))


@DETECTORS
def test_queries_that_say_what_is_labelled_decode_to_the_labels(words):
    model, labels = head(words), [some_labels(8, 1, 9), no_labels(9)]
    model.thresholds = (None, None, None)
    found, nothing = model.decode(perfect_maps(model, labels))
    best_first = torch.arange(7, -1, -1)
    assert_same_boxes(found.boxes[:8], labels[0].boxes[best_first])
    assert found.classes[:8].tolist() == labels[0].classes[best_first].tolist()
    assert nothing.boxes.shape == (0, 9)


@DETECTORS
def test_a_perfect_answer_costs_nothing_and_a_turned_one_does(words):
    model, labels = (
        head(words, losses=LossWeights(box=0.25, iou=0.5, box_loss="rotated")),
        [some_labels(8, 3, 9)],
    )
    raw = perfect_maps(model, labels)
    terms = model.loss(raw, labels)
    for name in ("classes", "box", "iou", "overlap"):
        assert terms[name].item() == pytest.approx(0, abs=1e-4), name
    turned = model.loss(raw | {"rot": -raw["rot"]}, labels)
    yaw = labels[0].boxes[:, 6]
    expected = 0.25 * 2 * (yaw.cos().abs() + yaw.sin().abs()).mean().item()
    assert turned["box"].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("swap_axes", [False, True])
def test_a_label_is_drawn_at_row_y_or_with_swapped_axes_at_row_x(swap_axes):
    model = head(swap_axes=swap_axes)
    box = torch.tensor([[3.1, -2.4, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    raw = model(bev(1))
    assert raw["dense_heatmap"].shape == ((1, 3, 32, 16) if swap_axes else (1, 3, 16, 32))
    x, y = int((3.1 + 8) / 0.5), int((-2.4 + 4) / 0.5)
    row, column = (x, y) if swap_axes else (y, x)
    right = torch.full_like(raw["dense_heatmap"], -9.0)
    right[0, 1, row, column] = 9.0
    labels = [Labels(box, torch.tensor([1]))]
    assert model.loss(raw | {"dense_heatmap": right}, labels)["heatmap"] < 1e-3
    elsewhere = right.flip(2, 3)
    assert model.loss(raw | {"dense_heatmap": elsewhere}, labels)["heatmap"] > 1


@pytest.mark.parametrize("swap_axes", [False, True])
def test_a_query_starts_at_the_middle_of_the_best_cell_in_x_and_y(swap_axes):
    model = head(swap_axes=swap_axes, queries=1).eval()
    nn.init.zeros_(model.prediction_head.center[1].weight)
    for part in (model.shared_conv, model.heatmap_head[0].conv, model.heatmap_head[1]):
        nn.init.zeros_(part.weight)
        part.weight.data[:, :, 1, 1] = 1.0  # the map's sum of channels, cell by cell
    maps = torch.zeros(1, 6, 16, 32)
    maps[0, :, 5, 23] = 1.0
    raw = model(maps)
    assert raw["center"][0, :, 0].tolist() == [23.5, 5.5]


def test_swapped_axes_are_the_same_head_with_its_kernels_transposed():
    plain, swapped = head().eval(), head(swap_axes=True).eval()
    state = {k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in plain.state_dict().items()}
    swapped.load_state_dict(state)
    a, b = plain(bev()), swapped(bev())
    torch.testing.assert_close(a["dense_heatmap"], b["dense_heatmap"].transpose(2, 3))
    for name in ("query_class", "query_score", *plain.prediction_head.names):
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


def test_the_border_rules_differ_for_the_queries_whose_patch_leaves_the_map_and_no_others():
    clamp, wrap = head(queries=60).eval(), head(queries=60, border="wrap").eval()
    for model in (clamp, wrap):
        nn.init.zeros_(model.prediction_head.center[1].weight)
    a, b = clamp(bev(1)), wrap(bev(1))
    x, y = a["center"][0].floor()
    leaves = (x < 2) | (x > 32 - 3) | (y < 2) | (y > 16 - 3)
    differs = (a["dim"] - b["dim"])[0].abs().amax(0) > 1e-6
    assert torch.equal(differs, leaves) and leaves.any() and not leaves.all()


def test_a_query_does_not_depend_on_the_other_queries():
    many, few = head(queries=12).eval(), head(queries=3).eval()
    a, b = many(bev()), few(bev())
    for name in many.prediction_head.names:
        torch.testing.assert_close(a[name][:, :, :3], b[name], atol=1e-5, rtol=1e-4)


def loss_by_loops(model: TransFusionHead, raw: dict, labels: list[Labels], pairs) -> dict[str, float]:
    """Class, box and overlap-branch terms, query by query, for a given assignment (sample, query, label)."""
    classes = box = iou = 0.0
    owner = {(s, q): k for s, q, k in pairs}
    for s, (boxes, kinds) in enumerate(labels):
        for q in range(raw["heatmap"].shape[2]):
            k = owner.get((s, q))
            for c, logit in enumerate(raw["heatmap"][s, :, q].tolist()):
                p = 1 / (1 + math.exp(-logit))
                if k is not None and kinds[k] == c:
                    classes -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    classes -= 0.75 * p**2 * math.log(1 - p)
            if k is None:
                continue
            true = boxes[k]
            where = [(true[0] + 8) / 0.5, (true[1] + 4) / 0.5, true[2]]
            want = torch.stack([*where, *true[3:6].log(), true[6].sin(), true[6].cos()])
            said = torch.cat([raw[name][s, :, q] for name in ("center", "height", "dim", "rot")])
            box += (said - want).abs().sum().item() + 0.2 * (
                raw["vel"][s, :, q] - true[7:9]
            ).abs().sum().item()
            xy = (said[0] * 0.5 - 8, said[1] * 0.5 - 4)
            found = torch.stack([*xy, said[2], *said[3:6].exp(), torch.atan2(said[6], said[7])])[None]
            goal = 2 * iou_3d_of_pairs(found.detach(), true[None, :7]).item() - 1
            iou += abs(raw["iou"][s, 0, q].item() - goal)
    return {"classes": classes / len(pairs), "box": 0.25 * box / len(pairs), "iou": 0.5 * iou / len(pairs)}


def test_the_losses_are_a_loop_over_queries(monkeypatch):
    model, labels = head(losses=NUSCENES_LOSSES), [some_labels(3, 1, 9), some_labels(5, 2, 9)]
    raw = {name: value.detach() for name, value in model(bev()).items()}
    taken = []
    match = model.match

    def remember(*words):
        taken.append(match(*words))
        return taken[-1]

    monkeypatch.setattr(model, "match", remember)
    terms = model.loss(raw, labels)
    sample, query, row = (side.tolist() for side in taken[0])
    assert sorted(row) == list(range(8)) and sample == [0] * 3 + [1] * 5
    own = [k - 3 * s for s, k in zip(sample, row, strict=True)]
    expected = loss_by_loops(model, raw, labels, list(zip(sample, query, own, strict=True)))
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def test_the_heat_maps_loss_is_over_the_labels_of_the_whole_batch():
    model, labels = head(), [some_labels(3, 1, 9), some_labels(5, 2, 9)]
    raw = model(bev())
    drawn = center_targets(labels, raw["dense_heatmap"], model.cells, velocity=True).heat
    expected = gaussian_focal_loss(raw["dense_heatmap"], drawn)
    torch.testing.assert_close(model.loss(raw, labels)["heatmap"], expected)


def test_a_score_is_the_class_times_the_heat_map_mixed_with_the_overlap():
    model = head()
    raw = perfect_maps(model, [some_labels(1, 1, 9)])
    kind = raw["query_class"][0, 0]
    raw["heatmap"][0, :, 0] = 5.0  # classes that the query did not start with have no part
    raw["heatmap"][0, kind, 0] = 0.3
    raw["query_score"][0, 0], raw["iou"][0, 0, 0] = 0.6, 0.4
    (found,) = model.decode(raw)
    score = 0.6 / (1 + math.exp(-0.3))
    assert found.scores[0].item() == pytest.approx(math.sqrt(score) * math.sqrt(0.7), rel=1e-5)
    assert found.classes[0] == kind


def test_only_crowded_classes_are_suppressed():
    boxes = torch.tensor([[0.1, 0.1, 0.0, 4.0, 2.0, 1.5, 0.3, 0.0, 0.0]] * 2)
    boxes[1, 0] += 1.5  # overlap 0.45 or so
    for kind, kept in ((0, 2), (1, 1), (2, 1)):
        model = head()
        raw = perfect_maps(model, [Labels(boxes, torch.tensor([kind, kind]))])
        assert len(model.decode(raw)[0].scores) == kept, CLASSES[kind]
    assert model.thresholds == (None, 0.175, 0.175) and model.powers == (0.5, 0.5, 0.5)


def test_the_limits_of_decoding_are_kept():
    labels = [some_labels(8, 1, 9)]
    plain = {"iou_power": 0.0, "nms": None, "limit": None, "score": 0.0}
    counts = []
    for change in ({}, {"top": 3}, {"score": 0.65}, {"limit": (-3.0, -4.0, -9.0, 8.0, 4.0, 9.0)}):
        model = head(decoding=Decoding(**plain | change))
        counts.append(len(model.decode(perfect_maps(model, labels))[0].scores))
    inside = int((labels[0].boxes[:, 0] >= -3).sum())
    assert counts == [8, 3, 4, inside] and inside < 8


@DETECTORS
def test_two_samples_are_two_separate_calls(words):
    model = head(words).eval()
    together = model(bev())
    for i, one in enumerate(bev()):
        alone = model(one[None])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i : i + 1], value, atol=1e-5, rtol=1e-4)
        for a, b in zip(model.decode(together)[i], model.decode(alone)[0], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_same_input_gives_the_same_bits():
    runs = []
    for _ in range(2):
        model = head()
        sum(model.loss(model(bev()), [some_labels(5, 1, 9), some_labels(9, 2, 9)]).values()).backward()
        runs.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"height must be one of \('centre', 'top'\), got 'bottom'"):
        head(height="bottom")
    with pytest.raises(ValueError, match="iou_power must be 0 without iou=True"):
        head(iou=False)
    with pytest.raises(ValueError, match="one for each of the 3 classes"):
        head(decoding=Decoding(nms=(0.1, 0.2)))
    with pytest.raises(ShapeError, match=r"TransFusionHead: the map must be .*got \(1, 5, 16, 32\)"):
        head()(torch.zeros(1, 5, 16, 32))
    with pytest.raises(ValueError, match="queries must be at most"):
        head(queries=3 * 16 * 32 + 1)(bev())
    with pytest.raises(ValueError, match=r"boxes must be \(K, >= 9\)"):
        head().loss(head()(bev(1)), [some_labels(2, 0)])


@DETECTORS
def test_double_precision_and_autocast_run_forward_loss_and_decoding(words):
    labels = [some_labels(5, 1, 9), some_labels(9, 2, 9)]
    model = head(words).double()
    terms = model.loss(model(bev().double()), labels)
    assert {term.dtype for term in terms.values()} == {torch.float64}
    model = head(words)
    plain = model.loss(model(bev()), labels)
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(bev())
    terms = model.loss(raw, labels)
    sum(terms.values()).backward()
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert model.decode(raw)[0].boxes.dtype == torch.float32
    assert terms["heatmap"].item() == pytest.approx(plain["heatmap"].item(), rel=0.05)
