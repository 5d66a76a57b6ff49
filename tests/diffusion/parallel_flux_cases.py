"""Cases of CLEAR on FLUX over ranks; see parallel_child.py."""

import torch
from parallel_part_cases import ranks, relative
from parallel_unet_cases import inputs as unet_inputs
from parallel_unet_cases import linear, refusal
from pipelines import build

from linzoo.diffusion import linearize
from linzoo.diffusion.parallel import parallelize

TEXT = 7


def warm_up():
    with torch.no_grad():
        tiny = local(torch.float32, radius=2, down_factor=2)
        tiny.run()


def local(dtype=torch.float64, **options):
    """A tiny FLUX with CLEAR, its attentions large enough to have a say."""
    tiny = build("flux")
    linearize(tiny.pipe, "clear", **options)
    for name, parameter in tiny.model.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight", "norm.linear.weight", "norm1.linear.weight")):
            parameter.mul_(3)
        if name.endswith(("to_v.weight", "add_v_proj.weight", "norm1_context.linear.weight")):
            parameter.mul_(3)
        if name.endswith("spatial_weight"):
            parameter.copy_(torch.linspace(0.1, 0.9, parameter.numel()).view_as(parameter))
    tiny.pipe.transformer = tiny.pipe.transformer.to(dtype)
    return tiny


def inputs(model, rows, columns, text=TEXT):
    """A call of the transformer, seeded."""
    torch.manual_seed(3)
    dtype = model.dtype
    ids = torch.zeros(rows, columns, 3, dtype=dtype)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return {
        "hidden_states": torch.randn(2, rows * columns, 16, dtype=dtype),
        "encoder_hidden_states": torch.randn(2, text, 32, dtype=dtype),
        "pooled_projections": torch.randn(2, 32, dtype=dtype),
        "timestep": torch.tensor([0.5, 0.5], dtype=dtype),
        "img_ids": ids.flatten(0, 1),
        "txt_ids": torch.zeros(text, 3, dtype=dtype),
        "guidance": torch.tensor([3.5, 3.5], dtype=dtype),
    }


def steps(model, size, rows, **extra):
    """Relative difference of a parallel call to one of this process alone, and the report of the call."""
    words = inputs(model, *size) | extra
    want = model(**words).sample
    with parallelize(model, rows=rows) as handle:
        (got,) = model(**words, return_dict=False)
    return relative(got, want), handle.report()


CASES = {  # options, rows of the bands: of two and of four ranks
    "circle": (dict(radius=3), (3, 5), (2, 1, 1, 4)),
    "circle wider than a band": (dict(radius=5, proportional_attention=True), (1, 7), (1, 1, 5, 1)),
    "reaches everything": (dict(radius=64), None, None),
    "pooled blocks": (dict(radius=2, down_factor=2), (2, 6), (2, 2, 2, 2)),
    "pooled blocks, proportional": (
        dict(radius=2.5, down_factor=2, proportional_attention=True),
        (6, 2),
        None,
    ),
    "pooled areas": (dict(radius=2, pooled_tokens=(3, 4)), (1, 7), (1, 2, 4, 1)),
}


@ranks(2)
def flux_on_two_ranks(rank):
    errors = {name: steps(local(**words).model, (8, 6), rows)[0] for name, (words, rows, _) in CASES.items()}
    errors["float32"] = steps(local(torch.float32, radius=3).model, (8, 6), (3, 5))[0]
    errors["pooled float32"] = steps(local(torch.float32, radius=3, down_factor=2).model, (8, 6), (2, 6))[0]
    return errors


@ranks(4)
def flux_on_four_ranks(rank):
    errors = {name: steps(local(**words).model, (8, 6), rows)[0] for name, (words, _, rows) in CASES.items()}
    errors["float32"] = steps(local(torch.float32, radius=4).model, (8, 6), (1, 1, 1, 5))[0]
    return errors


@ranks(2)
def half_precision(rank):
    """Distance of a bfloat16 call to float32: over two ranks, and of this process alone."""
    results = {}
    for name, make in (("unet", lambda: linear("sd", torch.float32).model), ("flux", flux)):
        model = make()
        words = unet_inputs(model, 16, 8) if name == "unet" else inputs(model, 8, 6)
        exact = model(**words).sample
        model = model.bfloat16()
        words = {k: x.bfloat16() if x.is_floating_point() else x for k, x in words.items()}
        alone = model(**words).sample
        with parallelize(model):
            together = model(**words).sample
        results[name] = [relative(together, exact), relative(alone, exact), str(together.dtype)]
    return results


def flux():
    return local(torch.float32, radius=3, down_factor=2).model


@ranks(4)
def two_groups_side_by_side(rank):
    """Ranks 0, 1 and ranks 2, 3 each draw their own image."""
    import torch.distributed as dist

    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    model = local(radius=3).model
    words = inputs(model, 8, 6)
    words["hidden_states"] = words["hidden_states"] * (1 + rank // 2)
    want = model(**words).sample
    with parallelize(model, group=groups[rank // 2], rows=(3, 5)) as handle:
        got = model(**words).sample
    report = handle.report()
    return {"error": relative(got, want), "rank": [report.rank, report.world], "rows": report.rows}


@ranks(2)
def what_surrounds_flux(rank):
    tiny = local(radius=3, ntk_factor=10.0)
    samples = [torch.randn(2, 48, 32).double()]
    words = {"controlnet_block_samples": samples, "controlnet_single_block_samples": samples}
    results = {"controlnet": steps(tiny.model, (8, 6), (3, 5), **words)[0]}
    asked = {"proportional_attention": True, "grid": (6, 8)}
    results["words of a call"] = steps(tiny.model, (6, 8), (1, 5), joint_attention_kwargs=asked)[0]
    batched = inputs(tiny.model, 8, 6)["img_ids"][None]
    results["ids with a batch"] = steps(tiny.model, (8, 6), (3, 5), img_ids=batched)[0]
    return results


@ranks(4)
def bytes_of_a_flux_call(rank):
    """Bytes counted and bytes by formula, of every layer: r - 1 = 2 rows go to each neighbour."""
    rows, columns, batch, heads, dim, radius = (2, 4, 3, 3), 6, 2, 2, 16, 3
    model = local(torch.float32, radius=radius).model
    error, report = steps(model, (12, columns), rows)
    neighbours = 1 if rank in (0, 3) else 2
    wanted = {
        "halo": neighbours * batch * (radius - 1) * columns * 2 * heads * dim * 4,
        "text": batch * TEXT * heads * (dim + 1) * 4,
        "gather": batch * max(rows) * columns * 16 * 4,
    }
    seen = [[f"{x.layer} {x.kind}", x.bytes, wanted.get(x.kind)] for x in report.layers if x.kind != "check"]
    pooled = steps(local(torch.float32, radius=2, down_factor=2).model, (8, 4), (2, 2, 2, 2))[1]
    areas = steps(local(torch.float32, radius=2, pooled_tokens=(3, 5)).model, (8, 4), None)[1]
    return {
        "seen": seen,
        "pooled": [x.bytes for x in pooled.layers if x.kind == "pooled"],
        "pooled wanted": 2 * batch * (2 // 2) * (4 // 2) * heads * dim * 4,
        "areas": [x.bytes for x in areas.layers if x.kind == "pooled"],
        "areas wanted": 2 * batch * 3 * 5 * heads * dim * 4,
        "error": error,
    }


@ranks(2)
def a_pipeline_of_flux(rank):
    tiny = local(torch.float32, radius=3)
    alone = tiny.run(output_type="latent"), tiny.run()
    with parallelize(tiny.pipe) as handle:
        together = tiny.run(output_type="latent"), tiny.run()
        calls = handle.report().calls
    return {
        "errors": [relative(a, b) for a, b in zip(together, alone, strict=True)],
        "sum": [x.double().sum().item() for x in together],
        "calls": calls,
    }


@ranks(2)
def refusals_of_flux_calls(rank):
    """Every rank gets the same error, and the next call finds all ranks in step."""
    model = local(radius=2, down_factor=2).model
    words = inputs(model, 8, 6)
    alone = model(**words).sample
    texts = {}
    with parallelize(model) as handle:
        texts["grid"] = refusal(lambda: model(**inputs(model, 9, 6)))
        texts["columns"] = refusal(lambda: model(**inputs(model, 8, 5)))
        texts["ranks"] = refusal(lambda: model(**inputs(model, 2, 6)))
        texts["text"] = refusal(lambda: model(**inputs(model, 8, 6, text=TEXT + rank)))
        ids = words["img_ids"].clone()
        ids[5] = 3
        texts["ids"] = refusal(lambda: model(**words | {"img_ids": ids}))
        samples = [torch.zeros(2, 40, 32).double()]
        texts["samples"] = refusal(lambda: model(**words, controlnet_block_samples=samples))
        with torch.enable_grad():
            texts["gradients"] = refusal(lambda: model(**words))
        model._cache_config = object()
        texts["cache"] = refusal(lambda: model(**words))
        model._cache_config = None
        after = relative(model(**words).sample, alone)
    with parallelize(model, rows=(3, 5)):
        texts["edge"] = refusal(lambda: model(**words))
    return {"texts": texts, "after": after, "closed": handle.closed}
