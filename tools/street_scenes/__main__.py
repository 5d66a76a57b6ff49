"""``python -m linzoo.tools.street_scenes``."""

import sys

from ..standalone import main
from . import __doc__ as about
from . import add_arguments, run

if __name__ == "__main__":
    sys.exit(main("street_scenes", about, add_arguments, run))
