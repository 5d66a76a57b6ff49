"""``python -m linzoo.tools.digits_diffusion``."""

import sys

from ..standalone import main
from . import __doc__ as about
from . import add_arguments, run

if __name__ == "__main__":
    sys.exit(main("digits_diffusion", about, add_arguments, run))
