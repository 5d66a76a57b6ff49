"""Optional dependencies: the error that names the pip command."""

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, which ``pip install "linzoo[extra]"`` brings.

    Raises: ImportError naming the module and the pip command, when its top-level package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # installed, but broken inside: that is another fault
            raise
        raise ImportError(f'{error.name} is not installed: pip install "linzoo[{extra}]"') from error
