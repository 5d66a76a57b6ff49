"""Plans: what they choose, say and refuse, and that counting on shapes counts what is held."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("diffusers")

from linzoo.diffusion import linearize
from linzoo.diffusion.memory import MEASURES, MemoryPlanError, blank, plan
from linzoo.diffusion.memory.skeleton import skeleton, weight_bytes
from linzoo.diffusion.memory.tracker import own_bytes_on_cpu, peak_bytes

from .pipelines import build

KB = 1000


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


# counting


def test_the_peak_is_what_is_alive_at_once():
    a = meta(KB, KB)  # 4 MB, from outside: not counted

    def chain():
        b = a + 1
        c = b * 2
        del b
        d = (c + 1).view(-1)
        del c
        return d.sum()

    def held():
        kept = [a + 1, a + 2]
        return [*kept, a + 3]

    assert peak_bytes(chain, "cuda") == 8 * KB**2
    assert peak_bytes(held, "cuda") == 12 * KB**2
    assert peak_bytes(lambda: a.view(-1)[::2].t(), "cuda") == 0  # views make nothing
    assert peak_bytes(lambda: (a + 1).add_(2), "cuda") == 4 * KB**2  # neither does work in place


def test_softmax_attention_holds_no_matrix_of_weights():
    q = meta(1, 2, 1000, 8)
    call = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, value=q).transpose(1, 2).flatten(2)  # noqa: E731
    assert peak_bytes(call, "cpu") == 2 * 1000 * 8 * 4


def test_a_convolution_on_a_cpu_counts_its_copies():
    conv, one = (torch.nn.Conv2d(8, 4, k, padding=k // 2, device="meta") for k in (3, 1))
    x = meta(1, 8, 50, 50)
    out = 4 * 50 * 50 * 4
    assert peak_bytes(lambda: conv(x), "cuda") == out
    assert peak_bytes(lambda: conv(x), "cpu") == out + 4 * (8 * 50 * 50 + 8 * 4 * 9)
    assert peak_bytes(lambda: one(x), "cpu") == out


def test_a_half_precision_product_counts_its_float32_sums_where_the_cpu_has_no_such_product(monkeypatch):
    args = (meta(3, 8, dtype=torch.bfloat16), meta(8, 5, dtype=torch.bfloat16))
    out, op = meta(3, 5, dtype=torch.bfloat16), torch.ops.aten.mm.default
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert own_bytes_on_cpu(op, args, out) == 4 * 15
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert own_bytes_on_cpu(op, args, out) == 0


def test_a_skeleton_weighs_the_same_and_holds_nothing():
    tiny = build("sdxl")
    linearize(tiny.pipe, "linfusion")
    bones = skeleton(tiny.model)
    assert all(p.is_meta for p in (*bones.parameters(), *bones.buffers()))
    assert weight_bytes(bones) == weight_bytes(tiny.model) == 2 * weight_bytes(tiny.model, torch.float16)
    assert type(bones) is type(tiny.model)
    assert [*dict(bones.named_parameters())] == [*dict(tiny.model.named_parameters())]
    assert not any(p.is_meta for p in tiny.model.parameters())
    assert {p.dtype for p in skeleton(tiny.model, torch.bfloat16).parameters()} == {torch.bfloat16}


# choosing


@pytest.fixture(scope="module")
def tiny():
    made = build("sdxl")
    linearize(made.pipe, "linfusion")
    return made


SIZE = (512, 512)


@pytest.fixture(scope="module")
def free(tiny):
    return plan(tiny.pipe, *SIZE, memory=None)


def test_without_a_limit_nothing_is_on(free):
    assert free.measures == () and not free.streams
    assert [stage.name for stage in free.stages] == ["denoiser", "VAE decode"]


def test_measures_come_on_in_order_until_it_fits(tiny, free):
    """Each budget is one byte too small for the plan before."""
    last, seen = free, []
    for _ in range(4):
        denoiser = last.stages[0]
        try:
            last = plan(tiny.pipe, *SIZE, memory=denoiser.total - 1, tokens=512, tile=64)
        except MemoryPlanError:
            break
        seen.append([m for m in last.measures if not m.startswith("vae")])
        assert last.stages[0].total < denoiser.total
        assert last.peak < last.budget + 1
    assert seen[0][0] == "feed_forward" and len(seen) > 1
    assert all(on == list(MEASURES[: len(on)]) for on in seen)


def test_the_decoder_goes_to_tiles_and_then_to_the_file(tiny):
    totals = {}
    for measures in ((), ("vae_tiles",), ("vae_stream",)):
        totals[measures] = plan(tiny.pipe, *SIZE, memory=None, measures=measures, tile=64).stages[1].total
    assert totals[()] > totals[("vae_tiles",)] > totals[("vae_stream",)]
    smallest = totals[("vae_stream",)]
    from linzoo.diffusion.memory.parts import Parts
    from linzoo.diffusion.memory.planner import Ways, check_measures, first_that_fits, job_of

    parts = Parts.of(tiny.pipe)
    job = job_of(parts, SIZE, 1, None, None, "cpu", 4096)
    ways = Ways(parts, job, None, parts.weights(None), False, 64, check_measures(None))
    stage, names, tile = first_that_fits(ways.vae(), smallest)
    assert (stage.total, names, tile) == (smallest, ("vae_stream",), 64)


def test_what_cannot_fit_is_refused_with_the_least_that_can(tiny):
    """What the message asks for is enough, for every stage; a little less is not."""
    with pytest.raises(MemoryPlanError) as error:
        plan(tiny.pipe, *SIZE, memory=1, tile=64)
    assert isinstance(error.value, ValueError)
    words = r"memory must be at least (\d+\.\d\d) GB for 512 x 512 \(denoiser: 0.01 GB of .* got 0.00 GB"
    least = round(float(re.fullmatch(words, str(error.value))[1]) * 1e9)
    assert plan(tiny.pipe, *SIZE, memory=least, tile=64).peak <= least
    with pytest.raises(MemoryPlanError):
        plan(tiny.pipe, *SIZE, memory=least - 10**7, tile=64)


def test_offloaded_models_weigh_only_in_their_own_stage(tiny, free):
    alone = plan(tiny.pipe, *SIZE, memory=None, offload=True)
    weights = [weight_bytes(tiny.model), weight_bytes(tiny.pipe.vae)]
    assert [stage.weights for stage in alone.stages] == weights
    assert [stage.weights for stage in free.stages] == [sum(weights)] * 2


def test_auto_takes_what_is_free_and_what_the_weights_have(tiny, monkeypatch):
    from linzoo.diffusion.memory import planner

    monkeypatch.setattr(planner, "free_bytes", lambda device: 10**9)
    made = plan(tiny.pipe, 64, 64)
    assert made.budget == int(0.9e9) + weight_bytes(tiny.model) + weight_bytes(tiny.pipe.vae)


def test_a_batch_and_guidance_make_rows(tiny):
    works = {
        (batch, guidance): plan(tiny.model, 256, 256, memory=None, batch=batch, guidance=guidance)
        .stages[0]
        .work
        for batch, guidance in ((1, False), (1, True), (2, True))
    }
    assert works[1, False] * 1.9 < works[1, True] and works[1, True] * 1.9 < works[2, True]
    in_turn = plan(tiny.model, 256, 256, memory=None, batch=2, measures=("rows",))
    assert in_turn.stages[0].work < 1.2 * works[1, False]


@pytest.mark.parametrize("kind", ("sd", "flux", "sd3", "dit", "pixart_sigma", "pixart_alpha"))
def test_every_kind_of_pipeline_can_be_planned_and_drawn(kind):
    tiny = build(kind)
    side = 32 if kind == "dit" else 48
    on = tuple(m for m in MEASURES[:4] if m != "skips" or kind == "sd")
    made = plan(tiny.pipe, 32, side, memory=None, measures=on, tokens=16)
    assert all(stage.work > 0 for stage in made.stages)
    with made.applied(tiny.pipe):
        tiny.run(output_type="latent")


def test_a_plan_for_a_flux_model_made_local_needs_no_position_ids():
    tiny = build("flux")
    linearize(tiny.pipe, "clear", radius=3)
    assert plan(tiny.pipe, 32, 48, memory=None).work > 0


# saying


def test_the_table_says_what_is_on_and_what_each_stage_takes(tiny):
    made = plan(tiny.pipe, *SIZE, memory=10**9, measures=("rows", "vae_stream"), tile=64)
    text = str(made)
    assert "512 x 512 pixels, 1 picture, 2 rows with guidance, UNet2DConditionModel in float32 on cpu" in text
    assert (
        "on: rows (one row of the batch at a time); vae_stream (tiles of 64 pixels, straight to the file)"
        in text
    )
    assert "off: feed_forward, attention, skips, vae_tiles" in text
    for stage in made.stages:
        assert re.search(rf"{stage.name} +{stage.weights / 1e9:.2f} GB +{stage.work / 1e9:.2f} GB", text)
    assert f"predicted peak: {made.peak / 1e9:.2f} GB of 1.00 GB" in text and made.streams


# refusing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"height": 33}, "height must be a multiple of 2 pixels, got 33"),
        ({"memory": 0}, 'memory must be "auto", None or a positive number of bytes, got 0'),
        ({"memory": "all"}, "memory must be \"auto\", None or a positive number of bytes, got 'all'"),
        ({"batch": 0}, "batch must be a positive number, got 0"),
        ({"tokens": 0}, "tokens must be a positive number, got 0"),
        ({"measures": ("row",)}, "measures must be of feed_forward, rows, .* got 'row'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(tiny, words, message):
    with pytest.raises(ValueError, match=message):
        plan(tiny.pipe, **{"height": 32, "width": 32} | words)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match=r"plan knows UNet2DConditionModel, .* got Linear"):
        plan(torch.nn.Linear(2, 2), 64, 64)
    with pytest.raises(TypeError, match="plan needs a diffusers pipeline or its model, got int"):
        plan(3, 64, 64)
    with pytest.raises(ValueError, match="name must be one of sd15, sdxl, flux, got 'sd3'"):
        blank("sd3")
    tiny = build("flux")
    with pytest.raises(ValueError, match="measures must do without 'skips' for FluxTransformer2DModel"):
        plan(tiny.pipe, 32, 32, memory=None, measures=("skips",))
    made = plan(tiny.pipe, 32, 32, memory=None)
    with (
        pytest.raises(ValueError, match="the plan is for a FluxTransformer2DModel, got a UNet2D"),
        made.applied(build("sd").pipe),
    ):
        raise AssertionError("unreachable")


# the published sizes


def test_the_blank_models_have_the_published_sizes():
    """Parameters of Stable Diffusion 1.5's UNet and VAE and its text encoder, to the last one."""
    parts = blank("sd15").components
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert sizes == {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863}
    xl = blank("sdxl", method="linfusion").components
    assert sum(p.numel() for p in xl["text_encoder_2"].parameters()) == 694_659_840
    swapped = sum(p.numel() for n, p in xl["unet"].named_parameters() if ".attn1." in n)
    assert swapped == 435_480_800  # LinFusion-XL's
    assert all(p.is_meta for part in xl.values() for p in part.parameters())


# prediction against measurement

CHILD = """
import json, sys, torch
from linzoo.diffusion import linearize
from linzoo.diffusion.memory import decode_to_file, measured, plan
from tests.diffusion.pipelines import build, unet, vae

torch.set_num_threads(1)

def note(name, predicted, measured):
    print(json.dumps({"case": name, "predicted": predicted, "measured": measured}))

def inputs(side, dtype):
    words = {"sample": (2, 4, side // 8, side // 8), "encoder_hidden_states": (2, 16, 64)}
    return {name: torch.randn(x).to(dtype) for name, x in words.items()} | {"timestep": torch.tensor(3)}

def denoiser(dtype, measures, side):
    model = unet(
        block_out_channels=(96, 192), cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).to(dtype)
    linearize(model, "linfusion")
    made = plan(model, side, side, memory=None, measures=measures, tokens=1024, text_tokens=16)
    with torch.inference_mode(), made.applied(model):
        model(**inputs(128, dtype))
        words = inputs(side, dtype)
        with measured("cpu") as peak:
            model(**words)
    note(f"{dtype} {measures}", made.work, peak.bytes)

def decoder(measure, side):
    pipe = build("sd").pipe
    pipe.register_modules(vae=vae(block_out_channels=(48, 96), norm_num_groups=8))
    made = plan(pipe, side, side, memory=None, measures=(measure,) if measure else (), tile=160)
    latents = torch.randn(1, 4, side // 2, side // 2)
    decode_to_file(pipe, latents[..., :32, :32], sys.argv[1])
    with measured("cpu") as peak, made.applied(pipe), torch.no_grad():
        if made.streams:
            decode_to_file(pipe, latents, sys.argv[1], tile=made.tile)
        else:
            pipe.image_processor.postprocess(pipe.vae.decode(latents / 0.18215).sample)
    note(f"decoder {measure}", made.stages[-1].work, peak.bytes)

denoiser(torch.float32, (), 640)
denoiser(torch.float32, ("feed_forward", "rows", "attention", "skips"), 896)
denoiser(torch.bfloat16, (), 512)
decoder("", 192)
decoder("vae_tiles", 384)
decoder("vae_stream", 384)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's high-water mark")
def test_predicted_peaks_are_within_a_quarter_of_measured_ones(tmp_path):
    """In a process whose tensors go back to the system when they end, as large ones always do."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(cases) == 6
    for case in cases:
        assert abs(case["predicted"] - case["measured"]) < 0.25 * case["measured"], cases
        assert case["measured"] > 15e6, cases  # otherwise it would be a measurement of Python


def test_measured_sees_what_was_held_for_a_moment():
    """In a new process: one that has run for long may hold freed memory enough for the tensor."""
    code = """
import torch
from linzoo.diffusion.memory import measured
with measured("cpu") as peak:
    torch.ones(30_000_000).sum()
print(peak.bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 115e6 < int(done.stdout) < 180e6
