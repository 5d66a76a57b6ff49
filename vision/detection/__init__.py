"""Detection with mmdetection: our models as its backbones, trained and tested by its own loops.

``custom_imports = dict(imports=["linzoo.vision.detection"])`` in a config is all that mmdetection's own tools
need. Importing this package registers ``LinzooBackbone`` and ``SimpleFeaturePyramid`` in
``mmdet.registry.MODELS``, puts a stand-in on torchvision's operators in the place of mmcv's compiled ones
where mmcv-lite is installed, and tells torch which classes mmengine keeps in its checkpoints, so that they
resume. ``import linzoo.vision`` does none of this and needs no mmdetection.
"""

from . import mmcv_ext

mmcv_ext.install()  # mmdet looks for mmcv's operators when it is imported

from . import resume  # noqa: E402
from .backbone import LinzooBackbone  # noqa: E402
from .simple_pyramid import SimpleFeaturePyramid  # noqa: E402

resume.allow()

__all__ = ["LinzooBackbone", "SimpleFeaturePyramid"]
