"""Cases of whole UNets and their pipelines over ranks; see parallel_child.py."""

import copy

import torch
from parallel_part_cases import ranks, relative
from pipelines import build
from torch import nn

from linzoo.diffusion import linearize, linearized, unlinearize
from linzoo.diffusion.memory import plan
from linzoo.diffusion.parallel import parallelize

DEEP = dict(  # three resolutions: rows are halved twice
    block_out_channels=(16, 32, 32),
    attention_head_dim=(2, 2, 4),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)


def linear(kind, dtype=torch.float64, **changes):
    """A tiny pipeline with LinFusion in its UNet, its weights large enough for every layer to have a say."""
    tiny = build(kind, **changes)
    torch.manual_seed(1)
    linearize(tiny.pipe, "linfusion", init="random")
    for name, parameter in tiny.model.named_parameters():
        if "to_v" in name or "to_out.0.weight" in name:
            parameter.mul_(2)
    tiny.pipe.unet = tiny.pipe.unet.to(dtype)
    return tiny


def inputs(unet, rows, columns, batch=2):
    """A call of the UNet, seeded."""
    torch.manual_seed(3)
    dtype = unet.dtype
    words = {
        "sample": torch.randn(batch, 4, rows, columns, dtype=dtype),
        "timestep": torch.tensor(321),
        "encoder_hidden_states": torch.randn(batch, 7, 32, dtype=dtype),
    }
    if unet.config.addition_embed_type == "text_time":
        added = {
            "text_embeds": torch.randn(batch, 16, dtype=dtype),
            "time_ids": torch.randn(batch, 6, dtype=dtype),
        }
        words["added_cond_kwargs"] = added
    return words


def steps(unet, size, rows, **extra):
    """Relative difference of a parallel call to one of this process alone, and the report of the call."""
    words = inputs(unet, *size) | extra
    want = unet(**copy.deepcopy(words)).sample
    with parallelize(unet, rows=rows) as handle:
        (got,) = unet(**copy.deepcopy(words), return_dict=False)
    return relative(got, want), handle.report()


def warm_up():
    import peft  # noqa: F401

    with torch.no_grad():
        tiny = linear("sdxl", torch.float32)
        tiny.model(**inputs(tiny.model, 8, 8))
        tiny = linear("sd", torch.float32)
        tiny.run()
    for part in (tiny.model, tiny.pipe):
        refusal(lambda part=part: parallelize(part))


@ranks(2)
def unets_on_two_ranks(rank):
    errors = {}
    for kind in ("sd", "sdxl"):
        for dtype in (torch.float64, torch.float32):
            unet = linear(kind, dtype).model
            errors[f"{kind} {dtype}"] = steps(unet, (16, 24), (6, 10))[0]
    return errors


@ranks(4)
def unets_on_four_ranks(rank):
    unet = linear("sd", **DEEP).model
    errors = {"even": steps(unet, (16, 8), None)[0], "odd": steps(unet, (21, 7), (4, 8, 8, 1))[0]}
    unet = linear("sdxl", torch.float32).model
    errors["sdxl float32"] = steps(unet, (16, 8), (2, 8, 2, 4))[0]
    return errors


@ranks(2)
def bytes_of_a_unet_call(rank):
    """Bytes counted and bytes by formula, of every layer."""
    unet = linear("sd", torch.float32).model
    modules, rows, shapes = dict(unet.named_modules()), (6, 10), {}
    for name, module in modules.items():
        if isinstance(module, (nn.Conv2d, nn.GroupNorm)) or name.endswith("attn1"):
            module.register_forward_pre_hook(
                lambda _, args, name=name: shapes.__setitem__(name, args[0].shape)
            )
    error, report = steps(unet, (16, 24), rows)
    seen = {}
    for layer in report.layers:
        module = modules.get(layer.layer)
        if layer.kind == "state":
            heads, dim = module.heads, module.to_q.out_features // module.heads
            numbers = shapes[layer.layer][0] * (heads * dim * (dim + 1) + 1)
        elif layer.kind == "norm":
            numbers = 2 * shapes[layer.layer][0] * module.num_groups
        elif layer.kind == "conv":
            batch, channels, _, columns = shapes[layer.layer]
            needed = rank == 0 or module.stride[0] == 1  # a stride of 2 needs a row from above only
            numbers = needed * batch * channels * columns
        elif layer.kind == "gather":
            numbers = 2 * 4 * max(rows) * 24
        else:
            continue
        seen[f"{layer.layer} {layer.kind}"] = [layer.bytes, 4 * numbers]
    kinds = {kind: sum(layer.kind == kind for layer in report.layers) for kind in report.by_kind()}
    return {"seen": seen, "kinds": kinds, "total": report.bytes, "text": str(report), "error": error}


@ranks(2)
def what_surrounds_a_unet(rank):
    """LoRA on convolutions, ControlNet and T2I residuals, and the way back."""
    from peft import LoraConfig

    tiny = linear("sd")
    unet = tiny.model
    alone = unet(**inputs(unet, 16, 8)).sample
    classes = [type(module) for module in unet.modules()]
    attributes = [set(vars(module)) for module in unet.modules()]
    with parallelize(tiny.pipe, rows=(6, 10)) as handle:
        inside = bool(handle.closed)
        for module in (unet, unet.conv_in):  # what hooks leave behind when they are removed
            module.forward = module.forward
    same = [type(module) for module in unet.modules()] == classes
    same &= [set(vars(module)) for module in unet.modules()] == attributes
    with parallelize(unet):
        handle.close()  # a second time, and not the other handle's
        inside |= not hasattr(unet, "_parallel")
    results = {
        "closed": [inside, handle.closed, same, torch.equal(unet(**inputs(unet, 16, 8)).sample, alone)]
    }

    unet.add_adapter(LoraConfig(r=2, target_modules=["conv1", "conv", "to_q"], init_lora_weights=False))
    results["lora"] = steps(unet, (16, 8), (6, 10))[0]
    results["lora has a say"] = relative(unet(**inputs(unet, 16, 8)).sample, alone)

    unet = linear("sd").model
    down, middle = residuals_of_a_controlnet()
    extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    results["controlnet"] = steps(unet, (16, 8), (6, 10), **extra)[0]
    adapter = [torch.randn(2, width, *size).double() for width, size in ((32, (8, 4)), (64, (8, 4)))]
    results["adapter"] = steps(unet, (16, 8), (6, 10), down_intrablock_additional_residuals=adapter)[0]
    return results


def residuals_of_a_controlnet():
    """What one adds to every skip tensor of the tiny UNet at 16 x 8, and to its middle."""
    shapes = [(32, 16, 8), (32, 16, 8), (32, 8, 4), (64, 8, 4)]
    return [torch.randn(2, *shape).double() for shape in shapes], torch.randn(2, 64, 8, 4).double()


@ranks(2)
def a_pipeline_of_a_unet(rank):
    tiny = linear("sd", torch.float32)
    alone = tiny.run(output_type="latent"), tiny.run()
    frugal = plan(tiny.pipe, 32, 48, measures=("feed_forward", "rows", "attention", "skips"), tokens=16)
    with parallelize(tiny.pipe) as handle:
        together = tiny.run(output_type="latent"), tiny.run()
        calls = handle.report().calls
        with frugal.applied(tiny.pipe):
            planned = tiny.run(output_type="latent")
    return {
        "errors": [relative(a, b) for a, b in zip(together, alone, strict=True)],
        "sum": [x.double().sum().item() for x in together],
        "calls": calls,
        "planned": [relative(planned, alone[0]), handle.report().calls - calls],
        "still linear": linearized(tiny.pipe) is not None,
    }


def refusal(do, kinds=(ValueError, TypeError, RuntimeError)):
    """The text of the error that ``do`` raises."""
    try:
        do()
    except kinds as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@ranks(2)
def refusals(rank):
    import torch.distributed as dist

    texts = {}
    softmax = build("sd")
    texts["softmax"] = refusal(lambda: parallelize(softmax.pipe))
    texts["flux softmax"] = refusal(lambda: parallelize(build("flux").pipe))
    lit = build("dit")
    linearize(lit.pipe, "lit")
    texts["lit"] = refusal(lambda: parallelize(lit.pipe))
    unet = linear("sd").model
    one = dist.new_group([0])
    if rank == 1:
        texts["group"] = refusal(lambda: parallelize(unet, group=one))
    texts["no group"] = refusal(lambda: parallelize(unet, group="all"))
    for name, rows in (
        ("few", (16,)),
        ("zero", (0, 16)),
        ("float", (8.0, 8)),
        ("word", "ab"),
        ("number", 16),
    ):
        texts[f"rows {name}"] = refusal(lambda rows=rows: parallelize(unet, rows=rows))
    changed = {"circular": lambda: setattr(unet.conv_in, "padding_mode", "circular")}
    changed["patched"] = lambda: setattr(unet.conv_out, "forward", lambda x: x)
    changed["one more"] = lambda: unet.add_module("late", nn.Conv2d(4, 4, 3))
    changed["strange norm"] = lambda: setattr(
        unet.conv_norm_out, "__class__", type("Norm", (nn.GroupNorm,), {})
    )
    for name, change in changed.items():
        kept = copy.deepcopy(unet)
        change()
        texts[name] = refusal(lambda changed=unet: parallelize(changed))
        unet = kept
    texts["unchanged"] = str("_parallel" in vars(unet))
    return texts


@ranks(2)
def refusals_of_calls(rank):
    """Every rank gets the same error, and the next call finds all ranks in step."""
    tiny = linear("sd")
    unet = tiny.model
    words = inputs(unet, 16, 8)
    alone = unet(**words).sample
    texts = {}
    with parallelize(unet) as handle:
        texts["twice"] = refusal(lambda: parallelize(unet))
        texts["copy"] = refusal(lambda: copy.deepcopy(unet))
        texts["unlinearize"] = refusal(lambda: unlinearize(unet))
        with torch.enable_grad():
            texts["gradients"] = refusal(lambda: unet(**words))
        texts["module"] = refusal(lambda: unet.conv_in(words["sample"]))
        other = words | {"sample": words["sample"][:, :, : 16 - 2 * rank]}
        texts["shapes"] = refusal(lambda: unet(**other))
        noise = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(rank)).double()
        texts["values"] = refusal(lambda: unet(**words | {"sample": noise}))
        text = words["encoder_hidden_states"] * (1 + rank)
        texts["sizes"] = refusal(lambda: unet(**words | {"encoder_hidden_states": text}))
        texts["too few rows"] = refusal(lambda: unet(**words | {"sample": words["sample"][:, :, :2]}))
        masks = {"ip_adapter_masks": [torch.ones(1)]}
        texts["masks"] = refusal(lambda: unet(**words, cross_attention_kwargs=masks))
        unet.enable_freeu(0.9, 0.2, 1.2, 1.4)
        texts["freeu"] = refusal(lambda: unet(**words))
        unet.disable_freeu()
        unet.mid_block.resnets[0].late = nn.Conv2d(4, 4, 3)
        texts["changed"] = refusal(lambda: unet(**words))
        del unet.mid_block.resnets[0].late
        residuals = {"mid_block_additional_residual": torch.zeros(2, 64, 5, 4).double()}
        residuals["down_block_additional_residuals"] = []
        texts["residuals"] = refusal(lambda: unet(**words, **residuals))
        after = relative(unet(**words).sample, alone)
        unet.conv_out.forward = lambda x: x
        texts["close"] = refusal(handle.close)
        del unet.conv_out.forward
    for name, rows in (("edge", (5, 11)), ("sum", (8, 10))):
        with parallelize(unet, rows=rows):
            texts[f"rows {name}"] = refusal(lambda: unet(**words))
    other = copy.deepcopy(unet)
    other.conv_in.bias.add_(1e-3 * rank)
    texts["weights"] = refusal(lambda: parallelize(other))
    texts["options"] = refusal(lambda: parallelize(unet, rows=(8 - 2 * rank, 8 + 2 * rank)))
    return {"texts": texts, "after": after, "closed": handle.closed}
