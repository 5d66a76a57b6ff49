"""Small models that CLEAR takes, calls of them, and masked softmax in place of theirs: what it must equal."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .pipelines import build

KINDS = ("flux", "sd3", "dit")


def model_of(kind: str, **changes) -> nn.Module:
    """In float64 and eval mode, the same weights every time."""
    return build(kind, **changes).model.double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flux_ids(rows: int, columns: int) -> Tensor:
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return ids.flatten(0, 1)


def call_of(kind: str, grid: tuple[int, int], text: int = 7, batch: int = 1, **changes) -> dict:
    """Keyword arguments of one call of the model; DiT has no text and square grids only."""
    rows, columns = grid
    time = torch.full((batch,), 0.5, dtype=torch.float64)
    if kind == "dit":
        labels = torch.arange(batch)
        words = dict(hidden_states=normal(batch, 4, 2 * rows, 2 * columns), class_labels=labels)
        return words | {"timestep": torch.full((batch,), 500)} | changes
    words = dict(encoder_hidden_states=normal(batch, text, 32, seed=1), timestep=time)
    if kind == "sd3":
        latent = normal(batch, 4, 2 * rows, 2 * columns)
        return words | dict(hidden_states=latent, pooled_projections=normal(batch, 64, seed=2)) | changes
    words |= dict(img_ids=flux_ids(*grid), txt_ids=torch.zeros(text, 3), guidance=time)
    image = normal(batch, rows * columns, 16)
    return words | dict(hidden_states=image, pooled_projections=normal(batch, 32, seed=2)) | changes


def out_of(model: nn.Module, call: dict) -> Tensor:
    with torch.no_grad():
        return model(**call, return_dict=False)[0]


def seen(grid: tuple[int, int], radius: float, text: int, text_first: bool) -> Tensor:
    """(N, N) bool, by the definition."""
    rows, columns = grid
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    mask = torch.ones(len(y) + text, len(y) + text, dtype=torch.bool)
    image = slice(text, None) if text_first else slice(0, len(y))
    mask[image, image] = near
    return mask


@contextmanager
def masked_softmax(mask: Tensor):
    """Softmax attentions over as many tokens as the mask has obey it; others (SD3.5's second one) do not."""
    softmax = torch.nn.functional.scaled_dot_product_attention

    def masked(query, key, value, attn_mask=None, **words):
        own = mask if key.shape[-2] == len(mask) else attn_mask
        return softmax(query, key, value, attn_mask=own, **words)

    torch.nn.functional.scaled_dot_product_attention = masked
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = softmax
