"""The sequence operators of LION's layers, each a residual block in O(N), by name."""

from .operator import Operator
from .registry import OPERATORS, make_operator, register_operator

__all__ = ["OPERATORS", "Operator", "make_operator", "register_operator"]
