"""Runs cases of several processes each: imports once, then forks the ranks of one case after the other.

python parallel_child.py FOLDER [CASE ...]

Every rank writes FOLDER/CASE.RANK.json: what the case's function returned, or {"failed": traceback}.
"""

import json
import multiprocessing
import sys
import traceback
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import parallel_flux_cases
import parallel_part_cases
import parallel_unet_cases
import torch
import torch.distributed as dist

SECONDS = 120  # a case that hangs ends
CASES = {
    name: case
    for module in (parallel_part_cases, parallel_unet_cases, parallel_flux_cases)
    for name, case in vars(module).items()
    if hasattr(case, "world")
}


def warm_up() -> None:
    """Import and compile here, once, what the first call of each kind does."""
    parallel_unet_cases.warm_up()
    parallel_flux_cases.warm_up()


def run_rank(folder: Path, name: str, rank: int) -> None:
    case = CASES[name]
    try:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/{name}.meet",
            rank=rank,
            world_size=case.world,
            timeout=timedelta(seconds=SECONDS),
        )
        with torch.no_grad():
            result = case(rank)
        dist.barrier()  # whoever leaves first would close the connections of the others
        dist.destroy_process_group()
    except BaseException:
        result = {"failed": traceback.format_exc()}
    (folder / f"{name}.{rank}.json").write_text(json.dumps(result))


def run_case(folder: Path, name: str) -> None:
    start = multiprocessing.get_context("fork").Process
    ranks = [start(target=run_rank, args=(folder, name, rank)) for rank in range(CASES[name].world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(2 * SECONDS)
        rank.kill()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    warm_up()
    for name in sys.argv[2:] or CASES:
        run_case(out, name)
    (out / "done").touch()
