"""What is promised to users, as a snapshot: a name that appears or goes is a decision, not an accident."""

import importlib
import inspect

import pytest
import torch

SURFACE = {
    "linzoo": {"__version__"},
    "linzoo.kernels": {
        "BackendError",
        "ConvPairs",
        "KeySoftmaxState",
        "LinState",
        "MaxState",
        "ShapeError",
        "decay_scan",
        "depthwise_sparse_conv",
        "feature_map",
        "key_softmax_attn",
        "key_softmax_readout",
        "key_softmax_reduce",
        "lin_readout",
        "lin_reduce",
        "linear_attn",
        "local_attn",
        "merge_attn",
        "segment_gather",
        "segment_sum",
        "selective_scan",
        "sparse_conv",
        "strided_pairs",
        "submanifold_pairs",
        "ttt_scan",
    },
    "linzoo.diffusion": {
        "METHODS",
        "LinFusion",
        "LinearizedHandle",
        "Report",
        "linearize",
        "linearized",
        "load_pipeline",
        "unlinearize",
    },
    "linzoo.diffusion.distill": {
        "Batch",
        "Denoiser",
        "Objective",
        "Taps",
        "denoiser_of",
        "objective_names",
        "objective_of",
        "train_only",
        "trained_names",
    },
    "linzoo.diffusion.highres": {
        "RungOptions",
        "clear_ladder",
        "ladder",
        "open_writer",
        "sdxl_ladder",
        "super_resolution",
    },
    "linzoo.diffusion.memory": {
        "MEASURES",
        "Blank",
        "MemoryPlanError",
        "Peak",
        "Plan",
        "Stage",
        "blank",
        "decode_to_file",
        "decoded_rows",
        "denoiser_inputs",
        "free_bytes",
        "measured",
        "plan",
    },
    "linzoo.diffusion.parallel": {"LayerTraffic", "ParallelHandle", "ParallelReport", "parallelize"},
    "linzoo.pointcloud": {
        "Detections",
        "Detector",
        "DetectorConfig",
        "Frame",
        "Labels",
        "VoxelGrid",
        "Voxels",
        "create_detector",
        "detector_config",
        "list_detectors",
    },
    "linzoo.pointcloud.lion.operators": {"OPERATORS", "Operator", "make_operator", "register_operator"},
    "linzoo.pointcloud.metrics": {
        "KITTI_CLASSES",
        "NUSCENES_CLASSES",
        "CountedLabels",
        "KittiLabels",
        "NuScenesLabels",
        "count_points",
        "kitti_ap",
        "kitti_difficulty",
        "nuscenes_metrics",
        "synthetic_metrics",
        "unofficial_waymo_ap",
    },
    "linzoo.vision": {"FAMILIES", "Pyramid", "fold", "mixer_names", "register_mixer"},
}
FAMILY = {"OFFICIAL", "VARIANTS", "checkpoint_filter_fn", "default_cfgs", "from_official", "to_official"}
FAMILIES = [f"linzoo.vision.{name}" for name in importlib.import_module("linzoo.vision").FAMILIES]


@pytest.mark.parametrize("package", SURFACE)
def test_the_promised_names_are_these(package):
    assert set(importlib.import_module(package).__all__) == SURFACE[package]


@pytest.mark.parametrize("package", FAMILIES)
def test_a_family_promises_its_variants_its_classes_and_the_same_six_names(package):
    module = importlib.import_module(package)
    others = set(module.__all__) - FAMILY
    classes = {name for name in others if inspect.isclass(getattr(module, name))}
    assert set(module.__all__) >= FAMILY
    assert others - classes == set(module.VARIANTS)
    assert all(issubclass(getattr(module, name), torch.nn.Module) for name in classes) and classes


@pytest.mark.parametrize("package", [*SURFACE, *FAMILIES])
def test_every_promised_callable_is_documented(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("name", ["linear_attn", "lin_reduce", "lin_readout", "feature_map", "decay_scan"])
def test_the_ops_are_typed(name):
    signature = inspect.signature(getattr(importlib.import_module("linzoo.kernels"), name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
