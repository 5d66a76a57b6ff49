"""Linear-attention ops on ``(B, N, H, D)`` tensors: CPU and GPU, float64 to float16, one definition."""

if __name__ == "kernels":  # the checkout's root is on sys.path: hand over to PyPI's `kernels`, or stay empty
    import os
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    _root = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
    _spec = PathFinder.find_spec("kernels", [p for p in sys.path if os.path.realpath(p or ".") != _root])
    if _spec is not None and _spec.loader is not None:
        sys.modules["kernels"] = _mod = module_from_spec(_spec)
        _spec.loader.exec_module(_mod)
else:
    from .decay_scan import MaxState, decay_scan
    from .errors import BackendError, ShapeError
    from .key_softmax import KeySoftmaxState, key_softmax_attn, key_softmax_readout, key_softmax_reduce
    from .linear_attn import LinState, feature_map, lin_readout, lin_reduce, linear_attn
    from .local_attn import local_attn, merge_attn
    from .segment_ops import segment_gather, segment_sum
    from .selective_scan import selective_scan
    from .sparse_conv import (
        ConvPairs,
        depthwise_sparse_conv,
        sparse_conv,
        strided_pairs,
        submanifold_pairs,
    )
    from .ttt_scan import ttt_scan

    __all__ = [
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
    ]
