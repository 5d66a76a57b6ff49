"""Where mmdetection's own base configs lie, for the `_base_` lines of ours.

mmengine's spelling, `mmdet::_base_/...`, needs `pkg_resources`, which setuptools has dropped.
"""

from importlib.util import find_spec
from pathlib import Path


def mmdet_base(name: str) -> str:
    """Path of mmdetection's base config ``name``, such as "models/mask-rcnn_r50_fpn.py".

    Raises: ImportError when mmdet is not installed; FileNotFoundError for a name that it does not have.
    """
    found = find_spec("mmdet")
    if found is None:
        raise ImportError('mmdet is not installed: pip install "linzoo[detection]"')
    folder = Path(found.submodule_search_locations[0], ".mim", "configs", "_base_")
    if not (folder / name).is_file():
        known = ", ".join(sorted(str(p.relative_to(folder)) for p in folder.glob("*/*.py")))
        raise FileNotFoundError(
            f"name must be one of mmdet's base configs, got {name!r}; {folder} has {known}"
        )
    return str(folder / name)
