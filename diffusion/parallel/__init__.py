"""One image over many processes, exactly: LinFusion UNets and CLEAR on FLUX. Equations in README.md."""

from .handle import ParallelHandle, parallelize
from .report import LayerTraffic, ParallelReport

__all__ = ["LayerTraffic", "ParallelHandle", "ParallelReport", "parallelize"]
