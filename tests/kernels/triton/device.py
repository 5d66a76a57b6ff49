"""Where the children run Triton's kernels: in its interpreter on the CPU, or compiled on a GPU.

`TRITON_INTERPRET=1 python child.py ...` is what the tests start; the same line without the variable runs the
same cases on the machine's GPU.
"""

import os

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

# Relative l2 error allowed in float32: a GPU's exponentials have 22 bits, and products of over 64 columns
# are three tf32 ones.
FLOAT32 = 2e-6 if DEVICE == "cpu" else 1e-5
