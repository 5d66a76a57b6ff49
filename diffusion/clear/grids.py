"""The grid of a call's image tokens: read from FLUX's position ids, once a call, or given."""

from functools import lru_cache

import torch
from torch import Tensor

from .attention import Grid

WHERE = "joint_attention_kwargs={'grid': (rows, columns)}"


def check_grid(grid: object, tokens: int) -> Grid:
    """A grid given by the caller. Raises: TypeError, ValueError."""
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"grid must be a pair (rows, columns), got {grid!r}")
    if grid[0] * grid[1] != tokens or grid[0] < 1:
        raise ValueError(f"grid must have as many tokens as the image, {tokens}, got {grid[0]} x {grid[1]}")
    return grid[0], grid[1]


@torch.compiler.disable(reason=f"ids are data: for a full graph pass {WHERE}, or use compile_repeated_blocks")
def grid_of_ids(img_ids: Tensor | None, tokens: int) -> Grid:
    """The grid of ids (N, 3) or, as older pipelines give them, (B, N, 3); it need not start at (0, 0).

    Raises: ValueError for ids that are not one grid in row-major order: reference images in the sequence.
    """
    if img_ids is None or img_ids.dim() not in (2, 3) or tuple(img_ids.shape[-2:]) != (tokens, 3):
        got = None if img_ids is None else tuple(img_ids.shape)
        raise ValueError(f"img_ids must be (N, 3) with N = {tokens}, the image tokens, got {got}")
    ids = (img_ids[0] if img_ids.dim() == 3 else img_ids).detach().cpu()
    second_row = (ids[:, 1] != ids[0, 1]).nonzero()
    columns = int(second_row[0]) if len(second_row) else tokens
    grid = (tokens // columns, columns)
    if grid[0] * grid[1] != tokens or not torch.equal(ids, (ids[0].double() + places(grid)).to(ids.dtype)):
        raise ValueError(
            f"img_ids must be one grid of positions, row by row, got {tokens} ids that are not: clear has no "
            "rule for reference images in the sequence (Kontext). Use a pipeline without them, or call "
            f"linzoo.diffusion.unlinearize(pipe); if the tokens are one grid all the same, pass {WHERE}"
        )
    return grid


@lru_cache(maxsize=4)
def places(grid: Grid) -> Tensor:
    """(rows x columns, 3): 0, row, column."""
    rows, columns = (torch.arange(n, dtype=torch.int32) for n in grid)
    table = torch.zeros(*grid, 3, dtype=torch.int32)
    table[..., 1], table[..., 2] = rows[:, None], columns
    return table.flatten(0, 1)
