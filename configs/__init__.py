"""Recipes: `vision/*.toml` for `linzoo train`, `detection/*.py` for mmdetection."""
