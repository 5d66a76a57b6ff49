"""Maps the top-level folders into the ``linzoo`` package; all other metadata is in pyproject.toml."""

from setuptools import find_packages, setup

TOPS = ("kernels", "vision", "diffusion", "pointcloud", "configs", "tools")
setup(
    packages=["linzoo"] + [f"linzoo.{p}" for t in TOPS for p in find_packages(".", include=[t, f"{t}.*"])],
    package_dir={"linzoo": "src/linzoo", **{f"linzoo.{t}": t for t in TOPS}},
)
