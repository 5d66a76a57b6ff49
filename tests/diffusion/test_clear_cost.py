"""What CLEAR's report counts: pairs, operations, numbers a token; the paper's figures per layer."""

import weakref

import pytest
import torch

pytest.importorskip("diffusers")

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from linzoo.diffusion import linearize
from linzoo.diffusion.clear import METHOD, ClearOptions
from linzoo.diffusion.clear.cost import attention_flops, attention_pairs, projection_flops, window_pairs

from ..parity_fill import figures
from .clear_cases import flux_ids, model_of, normal

CASES = figures("clear_attention")["cases"]
PUBLISHED = {  # GFLOPS of one layer at 3072 channels and 512 text tokens, by radius 8, 16, 32
    1024: (63.5, 86.6, 154.1),
    2048: (246.2, 352.6, 724.3),
    4096: (979.3, 1433.2, 3141.7),
    8192: (3915.4, 5789.2, 13085.0),
}


@pytest.mark.parametrize("side", PUBLISHED)
def test_the_published_operations_of_a_layer_come_out(side):
    grid = (side // 16, side // 16)
    pairs = (attention_pairs(grid, 512, ClearOptions(radius=radius)) for radius in (8, 16, 32))
    assert tuple(round(attention_flops(n, 3072) / 1e9, 1) for n in pairs) == PUBLISHED[side]


def test_pairs_are_those_of_the_published_masks():
    for case in CASES:
        options = ClearOptions(radius=case["radius"], down_factor=case["down_factor"])
        assert attention_pairs(tuple(case["grid"]), case["text_tokens"], options) == case["mask_true"]


@pytest.mark.parametrize(("radius", "disc"), [(3, 25), (5, 69), (8, 193), (16, 793), (32, 3205)])
def test_a_disc_inside_has_the_published_number_of_tokens(radius, disc):
    tokens = 10**6
    assert window_pairs((tokens, tokens), radius) / tokens**2 == pytest.approx(disc, rel=1e-4)
    assert window_pairs((1, tokens), radius) == tokens * (2 * radius - 1) - radius * (radius - 1)


def test_a_fixed_number_of_pooled_keys_stays_linear_and_blocks_do_not():
    def growth(**options) -> float:
        small, large = (
            attention_pairs((side, side), 512, ClearOptions(radius=8, **options)) for side in (256, 1024)
        )
        return large / small / 16

    assert growth(pooled_tokens=(32, 32)) == pytest.approx(1, abs=0.01)
    assert growth(down_factor=4) > 5
    million = attention_pairs((512, 512), 512, ClearOptions(radius=8, down_factor=4))
    assert attention_flops(million, 3072) == pytest.approx(56.7e12, rel=1e-3)


ATTENTIONS = {
    "flux": ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn"),
    "sd3": ("transformer_blocks.0.attn", "transformer_blocks.1.attn"),  # the last has no text output
    "dit": ("transformer_blocks.0.attn1",),
}
EVERY_SORT = [(kind, name) for kind, names in ATTENTIONS.items() for name in names]
SIZE, TEXT = (16, 16), 24


def attention_call(kind: str, name: str, dtype: torch.dtype):
    """(swapped module, keyword arguments, text tokens) of one attention at SIZE."""
    handle = linearize(model_of(kind), "clear", radius=3)
    module = handle.modules[name].to(dtype)
    text = 0 if kind == "dit" else TEXT
    tokens = SIZE[0] * SIZE[1] + (text if name.startswith("single") else 0)
    words = {"hidden_states": normal(1, tokens, module.query_dim).to(dtype), "grid": SIZE}
    if module.added_kv_proj_dim is not None:
        words["encoder_hidden_states"] = normal(1, text, module.query_dim).to(dtype)
    if kind == "flux":
        words["image_rotary_emb"] = handle.model.pos_embed(torch.cat((torch.zeros(text, 3), flux_ids(*SIZE))))
    return module, words, text


@pytest.mark.parametrize(("kind", "name"), EVERY_SORT)
def test_projections_are_counted_as_torch_counts_them(kind, name):
    module, words, text = attention_call(kind, name, torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(**words)
    assert projection_flops(module, SIZE[0] * SIZE[1], text) == counter.get_total_flops()


class Peak(TorchDispatchMode):
    """Bytes alive of what operations make, at their highest."""

    def __init__(self, *inputs):
        super().__init__()
        self.known = {x.untyped_storage()._cdata for x in inputs}
        self.now = self.highest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            storage = x.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.highest = max(self.highest, self.now)
        return out

    def freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "name"), EVERY_SORT)
def test_numbers_a_token_are_those_alive_at_the_peak(kind, name, dtype):
    module, words, text = attention_call(kind, name, dtype)
    inputs = [x for x in tree_leaves((words, list(module.parameters()))) if isinstance(x, torch.Tensor)]
    with torch.no_grad(), Peak(*inputs) as peak:
        module(**words)
    values = METHOD.cost(None, name, module, SIZE, text).values
    assert values == pytest.approx(peak.highest / dtype.itemsize / (SIZE[0] * SIZE[1] + text), rel=0.15)


def test_the_report_has_a_row_for_every_attention_and_the_grid_of_the_picture():
    handle = linearize(model_of("flux"), "clear", radius=8, down_factor=4)
    report = handle.report(512, 1024)
    assert [row.tokens for row in report.rows] == [32 * 64] * 3
    assert all(row.flops < row.softmax_flops for row in report.rows)
    sd3 = linearize(model_of("sd3"), "clear", radius=8).report(512, 1024)
    assert [row.tokens for row in sd3.rows] == [32 * 64] * 2
