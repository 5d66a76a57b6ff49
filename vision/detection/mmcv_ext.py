"""A stand-in for ``mmcv._ext``, the compiled half of mmcv, on torchvision's operators.

mmdetection imports ``mmcv.ops`` as soon as its models are imported, and mmcv-lite has the Python half only.
RetinaNet, Mask R-CNN and their relatives need two operators of it, which torchvision has for CPU and CUDA:
NMS and RoIAlign. Every other operator can be imported and says its name when it is called.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision
from torch import Tensor

NAME = "mmcv._ext"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box goes when its IoU with a better one is above it.
        offset: 1 for boxes whose last pixel is within: width = x2 - x1 + 1. Else 0.
    Returns: (K,) int64 indices of the boxes that stay, best first.
    """
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign by average into ``output`` (K, C, aligned_height, aligned_width).

    Args:
        input: (B, C, H, W).
        rois: (K, 5) as batch index, x1, y1, x2, y2 in pixels of the image.
        argmax_y, argmax_x: of maximum pooling; not used.
        sampling_ratio: samples a side of a bin; 0: as many as it has pixels.
        pool_mode: must be 1, average.
        aligned: shift by half a pixel.
    Raises: NotImplementedError for pool_mode 0, maximum.
    """
    _check_average("roi_align_forward", pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of ``roi_align_forward`` with respect to its input, into ``grad_input`` (B, C, H, W).

    Raises: NotImplementedError for pool_mode 0, maximum.
    """
    _check_average("roi_align_backward", pool_mode)
    grad = torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(grad)


def _check_average(op: str, pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            f"{op}: pool_mode must be 1 (average) without a compiled mmcv, got {pool_mode}"
        )


def _absent(name: str) -> Callable[..., None]:
    """What ``mmcv._ext.name`` is for an operator that the stand-in lacks; dunder names do not exist."""
    if name.startswith("__"):
        raise AttributeError(f"module {NAME!r} has no attribute {name!r}")

    def op(*args: object, **kwargs: object) -> None:
        raise NotImplementedError(f"mmcv's operator {name!r} needs a compiled mmcv; here is mmcv-lite")

    op.__name__ = name
    return op


def stand_in() -> ModuleType:
    """A module object for ``sys.modules["mmcv._ext"]``."""
    module = ModuleType(NAME, "linzoo's stand-in for mmcv's compiled operators")
    module.__spec__ = ModuleSpec(NAME, loader=None)
    module.nms = nms
    module.roi_align_forward = roi_align_forward
    module.roi_align_backward = roi_align_backward
    module.__getattr__ = _absent
    return module


def install() -> bool:
    """Puts the stand-in where ``mmcv.ops`` looks, unless mmcv was compiled; before mmdet is imported.

    Returns: True when the stand-in is in place, False when a compiled mmcv is.
    Raises: ImportError when mmcv is not installed.
    """
    if NAME in sys.modules:
        return sys.modules[NAME].__spec__.loader is None
    if importlib.util.find_spec(NAME) is not None:
        return False
    sys.modules[NAME] = stand_in()
    return True
