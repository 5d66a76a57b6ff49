"""What fails or surprises in the authors' code and its dependencies, and what happens here instead.

Faults of one part are tested beside that part; these concern several, or the names of what is not used.
"""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linzoo.pointcloud import Labels, create_detector
from linzoo.pointcloud.heads import LossWeights, TransFusionHead
from linzoo.pointcloud.lion.layer import LionLayer
from linzoo.pointcloud.lion.merge import coarse_cells
from linzoo.pointcloud.metrics import kitti_ap
from linzoo.pointcloud.scatterformer.attention import ScatteredLinearAttention
from linzoo.pointcloud.scatterformer.feed_forward import CrossWindowFeedForward
from linzoo.pointcloud.scatterformer.pillar_pool import PillarPool, columns
from linzoo.pointcloud.sparse import DepthwiseSubmanifoldConv3d
from linzoo.pointcloud.voxels import VoxelGrid, Voxels
from linzoo.pointcloud.windows import window_order

from .lion_cases import cells, sample, scattered
from .metric_cases import found, kitti, row_of_boxes

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for top in ("kernels", "pointcloud") for p in (ROOT / top).rglob("*.py"))
NEEDED = {"numpy", "safetensors", "scipy", "torch", "triton"}  # beside the standard library


@cache
def tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


def imported(path: Path) -> set[str]:
    """First names of the packages that a file imports, anywhere in it, but its own."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def names_in(path: Path) -> set[str]:
    """Attributes that a file takes, and names that it imports from elsewhere."""
    found = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    imports = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    return found | {alias.name for node in imports for alias in node.names}


def test_no_package_with_an_extension_to_build_is_imported():
    """spconv, MinkowskiEngine, torch_scatter, numba.cuda, mmcv: the installs that fail for users."""
    others = {path: imported(path) - NEEDED for path in SOURCES}
    assert {str(p.relative_to(ROOT)) for p, names in others.items() if names} == {
        "kernels/sparse_conv/spconv_backend.py"
    }
    compiled = (".c", ".cc", ".cpp", ".cu", ".cuh", ".pyx")
    assert not [
        p for top in ("kernels", "pointcloud") for p in (ROOT / top).rglob("*") if p.suffix in compiled
    ]


def test_only_what_this_numpy_has_is_used_of_it():
    """``np.int`` and its like, gone since 1.24 and 2.0, stop the authors' necks and evaluators."""
    assert not hasattr(np, "int")
    for path in (*SOURCES, *sorted((ROOT / "tools").rglob("*.py"))):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert hasattr(np, node.attr), f"{path}: np.{node.attr}"


def test_kernels_have_nothing_that_newer_triton_has_dropped():
    """The authors' RetNet stops at ``tl.math.pow``; block pointers are on their way out."""
    kernels = [path for path in SOURCES if path.name.startswith("triton_")]
    assert len(kernels) > 10
    for path in kernels:
        assert not names_in(path) & {"pow", "make_block_ptr", "advance"}, path


def test_no_kernel_adds_up_by_atomics():
    """As ScatterFormer's backward does: each run of a training has other digits."""
    for path in SOURCES:
        if path.name.startswith(("triton_", "depthwise_triton")):
            assert not [name for name in names_in(path) if name.startswith("atomic_")], path


def test_nothing_is_installed_that_pins_an_old_numpy_or_needs_a_compiler():
    """nuscenes-devkit alone takes numpy back to 1.26; Waymo's package wants an old Python and TensorFlow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    wanted = [line for lines in lists for line in lines]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in wanted}
    assert {"torch", "numpy", "scipy", "mmcv-lite"} <= names  # mmcv-lite has nothing compiled
    others = "nuscenes-devkit waymo-open tensorflow numba spconv cumm mmcv minkowskiengine torchsparse"
    others += " torch-scatter mamba-ssm causal-conv1d flash-attn xlstm"
    assert not [name for name in names - {"mmcv-lite"} if name.startswith(tuple(others.split()))]
    assert not [line for line in wanted if line.startswith("numpy") and "<" in line]


def test_no_file_bears_the_licence_of_the_authors_mlstm():
    """That file is under the AGPL; ours is written from the formulas."""
    for path in SOURCES:
        assert not re.search(r"affero|agpl|nxai", path.read_text(), re.IGNORECASE), path


def test_no_recorded_frame_is_part_of_the_repository():
    """KITTI's are for non-commercial use; the scenes of tests are drawn here."""
    recorded = {".bin", ".pcd", ".npy", ".npz", ".pkl", ".tfrecord", ".ply", ".las", ".pth"}
    tops = [ROOT / top for top in ("src", "kernels", "pointcloud", "tools", "configs", "tests")]
    assert not [path for top in tops for path in top.rglob("*") if path.suffix in recorded]


def test_models_add_up_by_nothing_whose_order_a_gpu_does_not_keep():
    """Users of the authors' code see other results from run to run; sums here go through ``segment_sum``."""
    atomic = {"index_add", "scatter_add", "index_put", "put", "bincount", "histc", "embedding_bag"}
    models = ROOT / "pointcloud"
    on_the_cpu = (models / "data", models / "metrics")  # numpy
    for path in SOURCES:
        if path.is_relative_to(models) and not any(path.is_relative_to(folder) for folder in on_the_cpu):
            assert not {name.removesuffix("_") for name in names_in(path)} & atomic, path


UNORDERED = re.compile(
    r"(Gather|IndexSelect|IndexAdd|Scatter\w*|RepeatInterleave|Embedding|Take|Put)Backward"
)


def backward_steps(loss: torch.Tensor) -> set[str]:
    """Names of what runs when gradients are computed."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        step = todo.pop()
        if step is not None and step not in seen:
            seen.add(step)
            todo += [before for before, _ in step.next_functions]
    return {step.name() for step in seen}


def test_the_walk_over_gradients_sees_what_has_no_order():
    rows, index = torch.ones(3, 2, requires_grad=True), torch.tensor([[0, 0], [1, 2]])
    steps = backward_steps((rows.gather(0, index) + rows.index_select(0, index[1])).sum())
    assert {name.removesuffix("0") for name in steps if UNORDERED.match(name)} == {
        "GatherBackward",
        "IndexSelectBackward",
    }


@pytest.mark.parametrize(
    "words", [{"border": "wrap", "swap_axes": True}, {"border": "clamp", "swap_axes": False}]
)
def test_gradients_of_queries_are_added_up_in_an_order(words):
    grid = VoxelGrid(point_range=(0.0, 0.0, 0.0, 8.0, 8.0, 4.0), voxel_size=(0.5, 0.5, 0.5))
    small = {"queries": 6, "width": 16, "heads": 2, "hidden": 8, "radius": 2, "height": "top"}
    losses = LossWeights(box_loss="rotated")
    head = TransFusionHead(4, classes=("a", "b"), grid=grid, stride=1, losses=losses, **small, **words)
    labels = Labels(torch.tensor([[4.0, 3.0, 1.0, 4.0, 1.8, 1.5, 0.3, 0.0, 0.0]]), torch.tensor([0]))
    loss = sum(head.loss(head(torch.randn(1, 4, 16, 16)), [labels]).values())
    assert not [name for name in backward_steps(loss) if UNORDERED.match(name)]


@pytest.mark.parametrize("name", ["lion_retnet_small", "scatterformer_small"])
def test_training_detection_and_evaluation_run_without_any_of_them(name, monkeypatch):
    """Without a GPU too: here is none."""
    for package in ("spconv", "cumm", "MinkowskiEngine", "torchsparse", "torch_scatter", "mmcv", "numba"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it is an ImportError
    torch.manual_seed(0)
    words = {"groups": (32,) * 4, "out_group": 32} if name.startswith("lion") else {"layers": 1}
    detector = create_detector(name, **words)
    points = torch.rand(200, 4) * torch.tensor([8.0, 8.0, 2.0, 1.0]) + torch.tensor([4.0, -4.0, -1.5, 0.0])
    labels = Labels(torch.tensor([[8.0, 0.0, -0.5, 4.0, 1.8, 1.5, 0.3]]), torch.tensor([0]))
    loss = sum(detector.loss([points], [labels]).values())
    assert not [name for name in backward_steps(loss) if UNORDERED.match(name)]
    loss.backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)
    assert len(detector.eval().detect([points])) == 1
    boxes = row_of_boxes(3)
    assert kitti_ap([found(boxes)], [kitti(boxes)])["Car"]["3d"]["easy"] == 100.0


def test_the_normalised_features_replace_the_residual_and_its_last_quarter_doubles():
    voxels = scattered((40,))
    module = CrossWindowFeedForward(16, 5).double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.startswith(("conv_", "fc2")):
                p.zero_()  # what is left are the residual paths
    normal = module.bn(voxels.features)
    result = module(voxels).features
    torch.testing.assert_close(result[:, :12], normal[:, :12])
    torch.testing.assert_close(result[:, 12:], 2 * normal[:, 12:])
    assert (normal - voxels.features).abs().max() > 0.1  # so the residual is not the input


def test_convolutions_may_be_longer_than_the_authors_index_builder_holds():
    """Windows of 40 cells need 41; theirs has room for 32 kernel cells."""
    row = torch.arange(60)
    voxels = cells([[0, 0, 0, x] for x in row.tolist()], (1, 1, 60), 1, dtype=torch.float64)
    conv = DepthwiseSubmanifoldConv3d(1, (1, 1, 41)).double()
    dense = F.conv1d(voxels.features.T[None], conv.weight.reshape(1, 1, 41), padding=20)
    torch.testing.assert_close(conv(voxels).features, dense[0].T)


def test_a_window_of_hundreds_of_voxels_among_windows_of_few_attends_as_by_the_formula():
    lengths = [1, 700, 3, 1, 40]
    attend = ScatteredLinearAttention(16, 2).double()
    rows = torch.randn(sum(lengths), 16, dtype=torch.float64)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    parts = []
    for part in rows.split(lengths):
        q, k, v = attend.qkv(part).unflatten(1, (3, 2, 8)).unbind(1)
        weights = torch.einsum("ihd,jhd->hij", q.relu(), k.relu())
        parts.append((weights / (weights.sum(2, True) + 1e-6)) @ v.transpose(0, 1))
    wanted = attend.proj(torch.cat([part.transpose(0, 1).flatten(1) for part in parts]))
    torch.testing.assert_close(attend(rows, offsets), wanted)


def test_a_pooled_pillar_is_the_pool_of_its_column_alone_at_the_columns_sorted_place():
    """The authors add rows of two orders, which are equal only by luck."""
    voxels = scattered((60, 25), shape=(6, 4, 5))
    pool = PillarPool(16, 6, heads=4).double()
    pooled = pool(voxels)
    places = [tuple(row[[0, 2, 3]].tolist()) for row in pooled.coords]
    assert places == sorted({tuple(row[[0, 2, 3]].tolist()) for row in voxels.coords})
    for place, features in zip(places, pooled.features, strict=True):
        own = (voxels.coords[:, [0, 2, 3]] == torch.tensor(place)).all(1)
        alone = Voxels(
            features=voxels.features[own], coords=voxels.coords[own], shape=voxels.shape, batch_size=2
        )
        torch.testing.assert_close(pool(alone).features[0], features)


def test_columns_and_coarse_cells_of_large_grids_and_batches_do_not_overflow():
    """b Z Y X passes 2^31 here; the authors count cells in int32."""
    shape, batch = (33, 3000, 3000), 20
    rows = torch.tensor([[0, 0, 0, 0], [14, 9, 1, 2], [19, 32, 2999, 2999], [19, 31, 2999, 2999]])
    assert 19 * 33 * 3000 * 3000 > 2**31
    coarse = coarse_cells(rows, shape, (2, 2, 2))
    assert coarse.coords.tolist() == [[0, 0, 0, 0], [14, 4, 0, 1], [19, 15, 1499, 1499], [19, 16, 1499, 1499]]
    voxels = cells(rows, shape, batch_size=batch)
    assert columns(voxels)[3].tolist() == [[0, 0, 0, 0], [14, 0, 1, 2], [19, 0, 2999, 2999]]


class SumOfLater(torch.nn.Module):
    """A scan that runs backwards: each token becomes the sum of those after it."""

    def forward(self, tokens, cu_seqlens):
        return tokens.flip(1).cumsum(1).flip(1) - tokens


def test_padding_comes_first_in_a_backward_scan():
    """7 voxels in groups of 4: the last one's empty slot repeats voxel 3, so voxel 6 has voxel 3 after it."""
    voxels = scattered((7,))
    layer = LionLayer(16, operator="retnet", window=(4, 4, 4), group_size=4, operator_words={"heads": 2})
    layer.blocks[0], layer.blocks[1] = SumOfLater(), torch.nn.Identity()
    layer.blocks[1].forward = lambda tokens, cu_seqlens: tokens
    order = window_order(voxels, (4, 4, 4), axis="x")
    x, y = voxels.features[order], layer(voxels).features[order]
    torch.testing.assert_close(y[6], x[3])
    torch.testing.assert_close(y[5], x[6] + x[3])
    torch.testing.assert_close(y[3], torch.zeros(16, dtype=torch.float64))
    few, _ = sample(scattered((3,)), 0)  # a sample that is shorter than a group repeats from its first
    order = window_order(few, (4, 4, 4), axis="x")
    torch.testing.assert_close(layer(few).features[order][2], few.features[order][0])
