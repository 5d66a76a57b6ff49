"""``linzoo distill``: students of the digits from recipe to weights, in one process."""

import copy

import pytest
import torch

from linzoo.diffusion import linearize

from .distill_runs import DIGITS, command, last, losses, one_thread, rows, start, teachers, words

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
__all__ = ["teachers"]


def read_dit(folder):
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel.from_pretrained(folder).eval()


def outputs(model):
    noisy = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(noisy, timestep=torch.tensor([10, 700]), class_labels=torch.tensor([3, 10])).sample


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


def test_a_recipe_trains_a_student_whose_weights_linearize_takes(tmp_path, teachers):
    teacher = teachers("digits")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f"[student]\nteacher = '{teacher}'\nmethod = 'lit'\n[student.method_kwargs]\nheads = 2\n"
        "[data]\ndataset = 'digits'\nbatch_size = 8\n[optimizer]\nlr = 1e-3\nclip_grad = 1.0\n[run]\n"
        "max_steps = 4\nlog_interval = 2\nsamples = 4\nsample_steps = 2\n"
    )
    assert command(tmp_path, str(recipe), "--device", "cpu") == 0
    folder = tmp_path / "run"
    assert [row["step"] for row in rows(folder)] == ["2", "4"]
    assert list(rows(folder)[0]) == [
        "step", "grad_norm", "loss", "task", "bound", "output", "variance", "lr",
    ]  # fmt: skip
    assert (folder / "samples" / "step-4.png").stat().st_size > 0
    assert "clip_grad: 1.0" in (folder / "args.yaml").read_text()
    model = read_dit(teacher)
    before = outputs(model)
    linearize(model, "lit", weights=folder / "weights")
    trained = last(folder)["state_dict"]
    assert trained.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    assert not torch.equal(outputs(model), before)


def test_the_teacher_stays_what_it_was_and_the_student_moves(tmp_path, teachers):
    before = read_dit(teachers("digits"))
    run = start(tmp_path, "--teacher", str(teachers("digits")), *DIGITS, "--max-steps", "2")
    assert same(state(run.teacher), state(before)) and not run.teacher.training
    assert not any(p.requires_grad for p in run.teacher.parameters())
    assert [row["step"] for row in run.history] == [1, 2] and run.best is run.student
    for name, parameter in run.student.named_parameters():
        if name in dict(before.named_parameters()) and ".attn1." not in name:
            assert not torch.equal(parameter, before.get_parameter(name)), name


def test_weights_are_the_moving_averages_where_there_is_one(tmp_path, teachers):
    line = [*DIGITS, "--teacher", str(teachers("digits")), "--max-steps", "3", "--ema-decay", "0.5"]
    run = start(tmp_path, *line, "--save-interval", "1")
    saved = last(run.folder)
    model = read_dit(teachers("digits"))
    linearize(model, "lit", weights=run.folder / "weights")
    assert all(torch.equal(p, saved["state_dict_ema"][name]) for name, p in model.named_parameters())
    assert run.best is run.average
    assert not torch.equal(*(saved[key]["proj_out_2.weight"] for key in ("state_dict", "state_dict_ema")))


NEW = words(
    "--method none --objective lit --from-scratch --model DiTTransformer2DModel --model-kwargs sample_size=8 "
    "patch_size=1 in_channels=1 out_channels=2 num_layers=1 num_attention_heads=2 attention_head_dim=8 "
    "num_embeds_ada_norm=10 norm_type=ada_norm_zero norm_elementwise_affine=False"
)


def test_a_model_trained_from_nothing_is_a_teacher(tmp_path):
    line = words("--dataset digits -b 8 --lr 1e-3 --samples 0 --log-interval 1 --device cpu")
    run = start(tmp_path, *line, *NEW, "--max-steps", "2", name="teacher")
    assert run.teacher is None and set(run.history[0]) == {"step", "loss", "task", "bound", "lr"}
    # it starts as the identity: before the first update the prediction is zero, the noise's square 1
    assert run.history[0]["task"] == pytest.approx(1, abs=0.1)
    folder = run.folder / "weights"
    assert (folder / "scheduler_config.json").is_file()
    student = start(tmp_path, *DIGITS, "--teacher", str(folder), "--max-steps", "1", name="student")
    assert same(state(student.teacher), state(run.student))


def test_a_student_from_scratch_inherits_nothing(tmp_path, teachers):
    run = start(tmp_path, *DIGITS, "--teacher", str(teachers("digits")), "--max-steps", "1", "--from-scratch")
    assert run.teacher is None and "output" not in run.history[0]
    theirs = dict(read_dit(teachers("digits")).named_parameters())
    assert run.history[0]["task"] == pytest.approx(1, abs=0.2)
    for name, parameter in run.student.named_parameters():
        if parameter.dim() > 1 and name in theirs:
            assert (parameter - theirs[name]).abs().mean() > 0.01, name


def test_clear_trains_all_of_a_dit_and_keeps_it_beside_the_swap(tmp_path, teachers):
    from safetensors.torch import load_file

    line = [*DIGITS, "--method", "clear", "--method-kwargs", "radius=3", "--objective", "lit"]
    run = start(tmp_path, "--teacher", str(teachers("digits")), *line, "--max-steps", "1")
    model = read_dit(teachers("digits"))
    linearize(model, "clear", weights=load_file(run.folder / "weights" / "trained.safetensors"), radius=3)
    assert same(state(model), state(run.student))
    again = start(
        tmp_path,
        "--teacher",
        str(teachers("digits")),
        *line,
        "--max-steps",
        "1",
        "--train",
        "swapped",
        name="b",
    )
    assert all(".attn1." in name for name in again.trained) and len(again.trained) == 2 * 8


def test_accumulated_steps_equal_the_joined_batch(tmp_path, teachers):
    """Float32, 1e-5: the sums are in another order."""
    line = [*DIGITS, "--teacher", str(teachers("digits")), "--max-steps", "3", "--opt-kwargs", "eps=1e-3"]
    one = start(tmp_path, *line, "-b", "8", name="one")
    two = start(tmp_path, *line, "-b", "2", "--grad-accum-steps", "4", name="two")
    assert losses(two.folder) == pytest.approx(losses(one.folder), rel=1e-5)
    first, second = (last(run.folder)["state_dict"] for run in (one, two))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-5)


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, teachers):
    line = [
        *DIGITS,
        "--teacher",
        str(teachers("digits")),
        "--ema-decay",
        "0.9",
        "--opt",
        "prodigy",
        "--lr",
        "1",
    ]
    line += ["--warmup-steps", "3"]
    whole = start(tmp_path, *line, "--max-steps", "4", name="whole")
    start(tmp_path, *line, "--max-steps", "2", name="parts")
    parts = start(tmp_path, *line, "--max-steps", "4", "--resume", "auto", name="parts")
    assert (parts.folder / "steps.csv").read_text() == (whole.folder / "steps.csv").read_text()
    for key in ("state_dict", "state_dict_ema"):
        assert same(last(whole.folder)[key], last(parts.folder)[key])
    again = start(tmp_path, *line, "--max-steps", "4", "--resume", str(parts.folder), name="other")
    assert again.folder == parts.folder and again.history == []


def test_the_rate_rises_to_its_value_and_stays(tmp_path, teachers):
    line = [*DIGITS, "--teacher", str(teachers("digits")), "--max-steps", "4", "--warmup-steps", "2"]
    run = start(tmp_path, *line)
    assert [row["lr"] for row in run.history] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])


def test_classes_are_dropped_alike_for_student_and_teacher(tmp_path, teachers, monkeypatch):
    from linzoo.diffusion.distill.denoisers import DiT

    seen = []
    predict = DiT.predict

    def watch(self, net, noisy, timesteps, given):
        seen.append(given["labels"])
        return predict(self, net, noisy, timesteps, given)

    monkeypatch.setattr(DiT, "predict", watch)
    line = [
        *DIGITS,
        "--teacher",
        str(teachers("digits")),
        "--max-steps",
        "2",
        "--label-dropout",
        "0.5",
        "-b",
        "64",
    ]
    run = start(tmp_path, *line)
    assert len(seen) == 4 and all(torch.equal(seen[i], seen[i + 1]) for i in (0, 2))
    assert 0.3 < (torch.cat(seen) == 10).float().mean() < 0.7
    embedding = run.student.transformer_blocks[0].norm1.emb.class_embedder
    assert run.student.training and not embedding.training


def test_samples_and_scalars_reach_tensorboard(tmp_path, teachers):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    line = [*DIGITS, "--teacher", str(teachers("digits")), "--max-steps", "2", "--report-to", "tensorboard"]
    run = start(tmp_path, *line, "--samples", "5", "--sample-steps", "2", "--sample-interval", "1")
    found = events.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2]
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(losses(run.folder))
    assert {"train/output", "train/variance", "train/lr"} <= set(found.Tags()["scalars"])
    pictures = found.Images("samples")
    assert [e.step for e in pictures] == [1, 2] and (pictures[0].width, pictures[0].height) == (24, 16)
    assert sorted(f.name for f in (run.folder / "samples").iterdir()) == ["step-1.png", "step-2.png"]


def test_guidance_moves_away_from_the_null_class(teachers):
    from diffusers import DDPMScheduler

    from linzoo.tools.distillation.sampling import sample

    model, scheduler = read_dit(teachers("digits")), DDPMScheduler(clip_sample=False)
    labels = {"labels": torch.arange(3)}
    given = {"shape": (1, 8, 8), "steps": 1}
    plain = sample(model, scheduler, labels, **given)
    none = sample(model, scheduler, {"labels": torch.full((3,), 10)}, **given)
    guided = sample(model, scheduler, labels, **given, guidance=3.0)
    torch.testing.assert_close(guided, none + 3 * (plain - none), rtol=1e-3, atol=1e-4)  # one step is linear
    assert torch.equal(plain, sample(model, scheduler, labels, **given))
    assert not torch.equal(plain, sample(model, scheduler, labels, **given, seed=1))


def test_a_copy_of_a_shared_student_leaves_the_teacher_alone(teachers):
    """LinFusion and CLEAR students share with the teacher what they do not train."""
    from linzoo.tools.distill import parse
    from linzoo.tools.distillation.student import make_student

    teacher = read_dit(teachers("digits"))
    before = copy.deepcopy(teacher)
    args = parse(words("--method clear --method-kwargs radius=3"))
    student = make_student(args, teacher, share=True)
    owned = student.handle.parameters()
    theirs = {id(p) for p in teacher.parameters()}
    for name, parameter in student.model.named_parameters():
        assert (id(parameter) in theirs) == (name not in owned), name
    with torch.no_grad():
        for parameter in owned.values():
            parameter.zero_()
    assert same(state(teacher), state(before))


def test_a_teacher_that_comes_with_linzoo_is_found_by_its_bare_name(tmp_path, teachers, monkeypatch):
    from linzoo.tools.distillation import teacher

    monkeypatch.setattr(teacher, "SHIPPED", teachers("digits").parent)
    for prefix in ("", "tools/weights/"):
        line = [*DIGITS, "--teacher", prefix + teachers("digits").name, "--max-steps", "1"]
        run = start(tmp_path, *line, name=f"run{len(prefix)}")
        assert same(state(run.teacher), state(read_dit(teachers("digits"))))
