"""Where the children run Triton's kernels: in its interpreter on the CPU, or compiled on a GPU.

`TRITON_INTERPRET=1 python child.py ...` is what the tests start; the same line without the variable runs the
same cases on the machine's GPU.
"""

import os

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
