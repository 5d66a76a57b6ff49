"""The three objectives against the papers' formulas written out by hand, and what their gradients reach."""

import copy
import math
import re

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from linzoo.diffusion import linearize
from linzoo.diffusion.distill import Batch, Taps, denoiser_of, objective_of, train_only, trained_names

from .pipelines import build

pytest.importorskip("diffusers")

STEPS = 1000
PLACES = torch.tensor([0.0, 0.4219, 0.97])


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(clean, **conditions):
    noise = random(*clean.shape, seed=11)
    return Batch(clean=clean, noise=noise, places=PLACES, conditions=conditions)


def pair(kind, method, changes=None, **options):
    """Frozen teacher, and a student with random swapped layers."""
    torch.manual_seed(0)
    teacher = build(kind, **(changes or {})).model.requires_grad_(False)
    student = copy.deepcopy(teacher)
    if method != "lit":
        options["init"] = "random"
    handle = linearize(student, method, **options)
    return teacher, student, handle


def capture(modules, call):
    """Outputs of ``modules`` in ``call``, by replacing their ``forward``."""
    found = {}

    def watched(name, forward):
        def run(*args, **words):
            found[name] = forward(*args, **words)
            return found[name]

        return run

    for name, module in modules.items():
        module.forward = watched(name, module.forward)
    result = call()
    for module in modules.values():
        del module.forward
    return result, found


def mean_square(one, other):
    return ((one - other) ** 2).mean()


def reached(model):
    """Parameters with a gradient that is not zero."""
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


# LinFusion


def linear_betas(low, high):
    return torch.linspace(low**0.5, high**0.5, STEPS, dtype=torch.float64) ** 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_linfusions_loss_is_the_papers_sum(prediction):
    from diffusers import DDPMScheduler

    teacher, student, handle = pair("sd", "linfusion")
    words = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDPMScheduler(**words, prediction_type=prediction)
    batch = batch_of(random(3, 4, 8, 8, seed=1), prompt=random(3, 7, 32, seed=2))
    objective = objective_of("linfusion")(denoiser_of(student), scheduler, handle.modules)
    got = objective.losses(student, student, teacher, batch)

    steps = torch.tensor([0, 421, 970])
    alphas = torch.cumprod(1 - linear_betas(0.00085, 0.012), 0)[steps][:, None, None, None]
    signal, level = alphas.sqrt().float(), (1 - alphas).sqrt().float()
    noisy = signal * batch.clean + level * batch.noise
    velocity = signal * batch.noise - level * batch.clean
    target = batch.noise if prediction == "epsilon" else velocity
    outputs = []
    for model in (student, teacher):
        modules = {n: m for n, m in model.named_modules() if n.endswith("attn1")}
        assert len(modules) == len(handle.modules) > 2
        outputs.append(capture(modules, lambda m=model: m(noisy, steps, batch.conditions["prompt"]).sample))
    (own, own_features), (theirs, their_features) = outputs
    features = [mean_square(own_features[name], their_features[name]) for name in own_features]
    wanted = mean_square(own, target) + 0.5 * mean_square(own, theirs) + 0.5 * sum(features) / len(features)
    torch.testing.assert_close(got["loss"], wanted, rtol=1e-5, atol=0)
    assert got["feature"] > 0 and got["output"] > 0


def test_linfusion_trains_everything_of_the_swapped_modules_and_nothing_else():
    from diffusers import DDPMScheduler

    teacher, student, handle = pair("sd", "linfusion")
    names = trained_names(student, "swapped")
    train_only(student, names)
    batch = batch_of(random(3, 4, 8, 8, seed=1), prompt=random(3, 7, 32, seed=2))
    objective = objective_of("linfusion")(denoiser_of(student), DDPMScheduler(), handle.modules)
    objective.losses(student, student, teacher, batch)["loss"].backward()
    wanted = {n for n, _ in student.named_parameters() if ".attn1." in n}
    assert reached(student) == set(names) == wanted
    assert len(wanted) == 17 * len(handle.modules)
    assert not reached(teacher)


# CLEAR


def clear_batch():
    return batch_of(
        random(3, 4, 8, 12, seed=1), prompt=random(3, 24, 32, seed=2), pooled=random(3, 32, seed=3)
    )


def test_clears_loss_is_the_papers_sum_on_flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    teacher, student, handle = pair("flux", "clear", {"num_single_layers": 4}, radius=2)
    batch, scheduler = clear_batch(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    objective = objective_of("clear")(denoiser_of(student), scheduler, handle.modules)
    got = objective.losses(student, student, teacher, batch)

    plain = 1 - torch.tensor([0, 421, 970]) / STEPS  # from all noise down
    levels = 3 * plain / (1 + 2 * plain)
    wide = levels[:, None, None, None]
    noisy = (1 - wide) * batch.clean + wide * batch.noise
    words = {
        "hidden_states": FluxPipeline._pack_latents(noisy, 3, 4, 8, 12),
        "timestep": levels,
        "guidance": torch.full((3,), 3.5),
        "pooled_projections": batch.conditions["pooled"],
        "encoder_hidden_states": batch.conditions["prompt"],
        "txt_ids": torch.zeros(24, 3),
        "img_ids": FluxPipeline._prepare_latent_image_ids(1, 4, 6, "cpu", torch.float32),
    }
    outputs, features = [], []
    for model in (student, teacher):
        block, seen = model.single_transformer_blocks[3], []  # 1 joint block before it: the fifth in order
        hook = block.proj_out.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        tokens = model(**words).sample
        hook.remove()
        outputs.append(FluxPipeline._unpack_latents(tokens, 8, 12, 1))
        features.append(seen[0][..., :32])  # the rest is the feed-forward half
    target = batch.noise - batch.clean
    wanted = mean_square(outputs[0], target) + 0.5 * mean_square(*outputs) + 0.5 * mean_square(*features)
    torch.testing.assert_close(got["loss"], wanted, rtol=1e-5, atol=0)
    assert got["feature"] > 0 and got["output"] > 0


def test_clears_loss_on_sd3_compares_every_fourth_joint_block():
    from diffusers import FlowMatchEulerDiscreteScheduler

    teacher, student, handle = pair("sd3", "clear", {"num_layers": 6}, radius=2)
    conditions = {"prompt": random(3, 20, 32, seed=2), "pooled": random(3, 64, seed=3)}
    batch = batch_of(random(3, 4, 8, 12, seed=1), **conditions)
    objective = objective_of("clear")(denoiser_of(student), FlowMatchEulerDiscreteScheduler(), handle.modules)
    got = objective.losses(student, student, teacher, batch)
    levels = 1 - torch.tensor([0, 421, 970]) / STEPS
    wide = levels[:, None, None, None]
    noisy = (1 - wide) * batch.clean + wide * batch.noise
    words = {"encoder_hidden_states": conditions["prompt"], "pooled_projections": conditions["pooled"]}
    outputs = []
    for model in (student, teacher):
        modules = {i: model.transformer_blocks[i].attn for i in (0, 4)}
        outputs.append(capture(modules, lambda m=model: m(noisy, timestep=levels * 1000, **words).sample))
    (own, own_features), (theirs, their_features) = outputs
    features = [mean_square(torch.cat(own_features[i], 1), torch.cat(their_features[i], 1)) for i in (0, 4)]
    wanted = (
        mean_square(own, batch.noise - batch.clean) + 0.5 * mean_square(own, theirs) + 0.25 * sum(features)
    )
    torch.testing.assert_close(got["loss"], wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("options", "extra"), [({}, ""), ({"down_factor": 2}, "|spatial_weight")])
def test_clear_trains_the_image_side_projections_only(options, extra):
    from diffusers import FlowMatchEulerDiscreteScheduler

    teacher, student, handle = pair("flux", "clear", {"num_single_layers": 4}, radius=2, **options)
    names = trained_names(student, "swapped")
    train_only(student, names)
    scheduler = FlowMatchEulerDiscreteScheduler()
    objective = objective_of("clear")(denoiser_of(student), scheduler, handle.modules)
    objective.losses(student, student, teacher, clear_batch())["loss"].backward()
    rule = re.compile(rf".*transformer_blocks\.\d+\.attn\.(to_(q|k|v|out)\..*{extra})$")
    wanted = {n for n, _ in student.named_parameters() if rule.match(n)}
    assert reached(student) == set(names) == wanted
    assert not reached(teacher)


def test_flux_has_380_trained_tensors_and_ten_compared_layers():
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True)
    handle = linearize(model, "clear", radius=16)
    names = trained_names(model, "swapped")
    parameters = dict(model.named_parameters())
    assert len(names) == 380 and sum(parameters[n].numel() for n in names) == 1_793_648_640
    compared = objective_of("clear")(denoiser_of(model), None, handle.modules).taps(model)
    assert compared == tuple(f"single_transformer_blocks.{i - 19}.attn" for i in range(20, 57, 4))
    handle.unlinearize()
    linearize(model, "clear", radius=8, down_factor=4)
    assert len(trained_names(model, "swapped")) == 437


# LiT


def lit_pair():
    return pair("dit", "lit", {"num_embeds_ada_norm": 10})


def by_hand(prediction, clean, noise, steps):
    """DiT's own loss: the noise's mean square, and the bound in bits a dimension."""
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    bound = []
    for row, t in enumerate(steps.tolist()):
        x0, e = clean[row].double(), noise[row].double()
        own_e, raw = prediction[row].double().chunk(2)
        own_e = own_e.detach()
        now, before = alphas[t], alphas[t - 1] if t else torch.tensor(1.0, dtype=torch.float64)
        variance = betas[t] * (1 - before) / (1 - now)
        least = variance if t else betas[1] * (1 - alphas[0]) / (1 - alphas[1])
        x = now.sqrt() * x0 + (1 - now).sqrt() * e

        def mean_of(x0, x=x, t=t, now=now, before=before):
            return (betas[t] * before.sqrt() * x0 + (1 - before) * (1 - betas[t]).sqrt() * x) / (1 - now)

        own_x0 = (x - (1 - now).sqrt() * own_e) / now.sqrt()
        part = (raw + 1) / 2
        deviation = (0.5 * (part * betas[t].log() + (1 - part) * least.log())).exp()
        own = Normal(mean_of(own_x0), deviation)
        if t:
            nats = kl_divergence(Normal(mean_of(x0), variance.sqrt()), own)
        else:
            low = torch.where(x0 < -0.999, 0.0, own.cdf(x0 - 1 / 255))
            high = torch.where(x0 > 0.999, 1.0, own.cdf(x0 + 1 / 255))
            nats = -(high - low).clamp(min=1e-12).log()
        bound.append(nats.mean() / math.log(2))
    return torch.stack(bound).float()


@pytest.mark.parametrize("scratch", [False, True])
def test_lits_loss_is_the_papers_sum(scratch):
    from diffusers import DDPMScheduler

    teacher, student, handle = lit_pair()
    labels = torch.tensor([3, 9, 10])
    clean = random(3, 4, 16, 16, seed=1).clamp(-1, 1)
    batch = batch_of(clean, labels=labels)
    objective = objective_of("lit")(denoiser_of(student), DDPMScheduler(), handle.modules)
    student.eval()
    got = objective.losses(student, student, None if scratch else teacher, batch)

    steps = torch.tensor([0, 421, 970])
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS), 0)[steps][:, None, None, None]
    noisy = alphas.sqrt() * clean + (1 - alphas).sqrt() * batch.noise
    own, theirs = (m(noisy, timestep=steps, class_labels=labels).sample for m in (student, teacher))
    bound = by_hand(own, clean, batch.noise, steps)
    torch.testing.assert_close(got["bound"], bound.mean(), rtol=2e-3, atol=0)  # erf against DiT's tanh
    wanted = mean_square(own[:, :4], batch.noise) + got["bound"]
    if not scratch:
        wanted = wanted + 0.5 * mean_square(own[:, :4], theirs[:, :4])
        wanted = wanted + 0.05 * mean_square(own[:, 4:], theirs[:, 4:])
    torch.testing.assert_close(got["loss"], wanted, rtol=1e-5, atol=0)


def test_the_bound_after_the_first_step_is_exact_and_trains_the_variance_only():
    from diffusers import DDPMScheduler

    clean, noise = random(3, 4, 4, 4, seed=1), random(3, 4, 4, 4, seed=2)
    prediction = random(3, 8, 4, 4, seed=3).requires_grad_()
    steps = torch.tensor([1, 500, 999])
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)[steps][:, None, None, None]
    noisy = (alphas.sqrt() * clean + (1 - alphas).sqrt() * noise).float()
    objective = objective_of("lit")(denoiser_of(build("dit").model), DDPMScheduler())
    batch = Batch(clean=clean, noise=noise, places=steps / STEPS, conditions={})
    got = objective.task(batch, noisy, steps, prediction)["bound"]
    torch.testing.assert_close(got, by_hand(prediction, clean, noise, steps).mean(), rtol=1e-3, atol=0)
    got.backward()
    assert (prediction.grad[:, :4] == 0).all() and (prediction.grad[:, 4:] != 0).all()


def test_lit_trains_every_parameter():
    from diffusers import DDPMScheduler

    teacher, student, handle = lit_pair()
    names = trained_names(student, "all")
    train_only(student, names)
    batch = batch_of(random(3, 4, 16, 16, seed=1), labels=torch.tensor([3, 9, 10]))
    objective = objective_of("lit")(denoiser_of(student), DDPMScheduler(), handle.modules)
    objective.losses(student, student, teacher, batch)["loss"].backward()
    assert reached(student) == set(names) == {n for n, _ in student.named_parameters()}
    assert not reached(teacher)


# all


def test_recomputed_activations_change_neither_losses_nor_gradients():
    from diffusers import DDPMScheduler

    teacher, student, handle = pair("sd", "linfusion")
    train_only(student, trained_names(student, "swapped"))
    batch = batch_of(random(3, 4, 8, 8, seed=1), prompt=random(3, 7, 32, seed=2))
    objective = objective_of("linfusion")(denoiser_of(student), DDPMScheduler(), handle.modules)
    results = []
    for _ in range(2):
        student.zero_grad()
        losses = objective.losses(student, student, teacher, batch)
        losses["loss"].backward()
        gradients = [p.grad.clone() for p in student.parameters() if p.requires_grad]
        results.append(([value.detach() for value in losses.values()], gradients))
        student.train().enable_gradient_checkpointing()
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-8)


def test_a_weight_of_zero_takes_the_term_out_and_a_term_that_is_none_is_refused():
    from diffusers import DDPMScheduler

    teacher, student, handle = lit_pair()
    batch = batch_of(random(3, 4, 16, 16, seed=1), labels=torch.tensor([3, 9, 10]))
    weights = {"output": 0.0, "variance": 2.0, "feature": None}
    objective = objective_of("lit")(denoiser_of(student), DDPMScheduler(), handle.modules, weights)
    got = objective.losses(student, student, teacher, batch)
    wanted = got["task"] + got["bound"] + 2 * got["variance"]
    torch.testing.assert_close(got["loss"], wanted)
    with pytest.raises(ValueError, match=r"feature_weight cannot be set: objective 'lit' has no such term"):
        objective_of("lit")(denoiser_of(student), None, (), {"feature": 0.5})
    with pytest.raises(ValueError, match=r"output_weight must be at least 0, got -1"):
        objective_of("lit")(denoiser_of(student), None, (), {"output": -1})


def test_what_cannot_be_done_is_refused_by_name():
    with pytest.raises(ValueError, match=r"objective must be one of .*, got 'litt'; did you mean lit\?"):
        objective_of("litt")
    with pytest.raises(ValueError, match=r"names must be modules of Linear, it has no x"):
        Taps(torch.nn.Linear(1, 1), ["x"])
    flux = build("flux").model
    with pytest.raises(ValueError, match=r"feature_weight must be 0: none of the 1 \+ 2 blocks"):
        objective_of("clear")(denoiser_of(flux), None).taps(flux)
    with pytest.raises(ValueError, match=r"train must be 'all' for a model without swapped modules"):
        trained_names(flux, "swapped")
    with pytest.raises(ValueError, match=r"model must be one of UNet2DConditionModel, .*, got Linear"):
        denoiser_of(torch.nn.Linear(1, 1))


def test_sd_xl_is_told_its_sizes_and_pixart_its_mask():
    model = build("sdxl").model
    conditions = {"prompt": random(3, 7, 32, seed=2), "pooled": random(3, 16, seed=3)}
    conditions["time_ids"] = random(3, 6, seed=4)
    noisy, steps = random(3, 4, 8, 8, seed=1), torch.tensor([0, 421, 970])
    denoiser = denoiser_of(model)
    one = denoiser.predict(model, noisy, steps, conditions)
    two = denoiser.predict(model, noisy, steps, conditions | {"time_ids": random(3, 6, seed=5)})
    assert one.shape == noisy.shape and not torch.equal(one, two)
    model = build("pixart_sigma").model
    conditions = {"prompt": random(3, 7, 32, seed=2), "mask": torch.ones(3, 7)}
    denoiser, noisy = denoiser_of(model), random(3, 4, 16, 16, seed=1)
    half = conditions["mask"].clone()
    half[:, 3:] = 0
    one = denoiser.predict(model, noisy, steps, {"prompt": conditions["prompt"], "mask": half})
    two = denoiser.predict(
        model, noisy, steps, {"prompt": conditions["prompt"][:, :3], "mask": torch.ones(3, 3)}
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
