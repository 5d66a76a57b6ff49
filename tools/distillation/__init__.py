"""Distillation of swapped diffusion models: what ``linzoo distill`` is made of."""
