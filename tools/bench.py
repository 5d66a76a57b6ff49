"""``linzoo bench kernels|models|diffusion|...``: times on this machine against named rivals, and costs."""

import argparse
import importlib

BENCHES = {
    "kernels": ("bench_kernels", "the linear-attention ops against upstream's formula and softmax"),
    "local-attn": ("bench_local_attn", "local attention against FlexAttention and full softmax"),
    "decay-scan": ("bench_decay_scan", "decayed recurrences against a loop over tokens"),
    "sparse-conv": ("bench_sparse_conv", "submanifold convolution against spconv on a CPU"),
    "gpu": ("bench_gpu", "the Triton kernels on a GPU against plain torch, softmax and compiled rivals"),
    "scatterformer": ("bench_scatterformer", "attention in unequal windows: packed, padded, looped"),
    "pointcloud": ("bench_pointcloud", "LION's operators and LiDAR backbones by number of voxels"),
    "selective-scan": ("bench_selective_scan", "the selective scan against a loop over all its states"),
    "models": ("bench_models", "whole models: eager and folded, at several sizes"),
    "diffusion": ("bench_diffusion", "one denoising step of real-width models, softmax against linear"),
    "detection": ("bench_detection", "detectors of configs/detection: parameters and multiply-adds"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="what", metavar="{" + ",".join(BENCHES) + "}", required=True)
    for name, (module, summary) in BENCHES.items():
        tool = importlib.import_module(f".{module}", __package__)
        sub = subparsers.add_parser(name, help=summary)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        tool.add_arguments(sub)
        sub.set_defaults(run_bench=tool.run)


def run(args: argparse.Namespace) -> int:
    return args.run_bench(args)
