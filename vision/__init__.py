"""Backbones for timm."""
