"""``python -m linzoo.tools.digits_diffusion``."""

import argparse
import sys

from . import __doc__ as about
from . import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m linzoo.tools.digits_diffusion",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        sys.exit(run(parser.parse_args()))
    except (ValueError, OSError, ImportError) as error:
        print(f"digits_diffusion: {error}", file=sys.stderr)
        sys.exit(2)
