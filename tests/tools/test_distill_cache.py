"""Pictures and captions: encoded once as the pipeline encodes them, kept on disk, read again."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from linzoo.tools.distillation import cache as cache_module
from linzoo.tools.distillation.pictures import list_entries, read_picture

from .distill_runs import CAPTIONS, last, one_thread, pictures, start, teachers, words
from .distill_teachers import make_pictures

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures(one_thread.__name__)
__all__ = ["pictures", "teachers"]


@pytest.fixture
def runs(tmp_path, teachers, pictures):
    """Runs of two updates on the captioned pictures, all with one cache."""

    def run(name, *more, kind="sd", method="linfusion", data=pictures):
        line = [*CAPTIONS, "--teacher", str(teachers(kind)), "--method", method, "--data-dir", str(data)]
        return start(
            tmp_path, *line, "--cache", str(tmp_path / "cache"), "--max-steps", "2", *more, name=name
        )

    return run


def encoded(monkeypatch):
    """The pictures that are encoded from now on, in batches."""
    seen = []
    encode = cache_module.encode

    def watch(args, side, entries, encoder):
        seen.append([entry.path.name for entry in entries])
        return encode(args, side, entries, encoder)

    monkeypatch.setattr(cache_module, "encode", watch)
    return seen


def names(batches):
    return [name for batch in batches for name in batch]


def test_a_second_run_encodes_nothing_and_sees_the_same(tmp_path, runs, monkeypatch):
    seen = encoded(monkeypatch)
    one = runs("one")
    assert names(seen) == [f"{i:02d}.png" for i in range(8)] and max(map(len, seen)) == 2
    seen.clear()
    two = runs("two")
    assert seen == [] and two.history == one.history
    folder = two.samples.folder
    assert sorted(f.name for f in folder.iterdir()) == [
        "absent.safetensors", "manifest.json", *(f"shard-0000{i}.safetensors" for i in range(3)),
    ]  # fmt: skip
    assert json.loads((folder / "manifest.json").read_text())["side"] == 32


def test_encoding_goes_on_where_it_was_interrupted(tmp_path, runs, monkeypatch):
    one = runs("one")
    folder = one.samples.folder
    whole = (folder / "shard-00002.safetensors").read_bytes()
    (folder / "shard-00001.safetensors").write_bytes(whole)  # a picture too few
    (folder / "shard-00002.safetensors").write_bytes(whole[:-100])
    seen = encoded(monkeypatch)
    two = runs("two")
    assert names(seen) == [f"{i:02d}.png" for i in (3, 4, 5, 6, 7)] and two.history == one.history
    assert (folder / "shard-00002.safetensors").read_bytes() == whole


def test_other_settings_captions_or_weights_make_another_cache(tmp_path, runs, teachers, monkeypatch):
    base = runs("base").samples.folder
    data = make_pictures(tmp_path / "other", form="txt")
    assert runs("txt", data=data).samples.folder == base  # the same captions, otherwise written
    (data / "03.txt").write_text("another dog")
    found = [base, runs("caption", data=data).samples.folder]
    found += [runs("squash", "--resize", "squash").samples.folder, runs("flip", "--hflip").samples.folder]
    changed = tmp_path / "teacher"
    shutil.copytree(teachers("sd"), changed)
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(changed / "vae")
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(2)
    vae.save_pretrained(changed / "vae")
    found.append(runs("vae", "--teacher", str(changed)).samples.folder)
    assert len(set(found)) == 5
    manifest = base / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"side": 32', '"side": 64'))
    with pytest.raises(ValueError, match=r"--cache: .*manifest.json is of other settings \(side 64 -> 32\)"):
        runs("edited")


def test_what_is_cached_is_what_the_pipeline_makes_of_it(runs, pictures):
    from diffusers import DiffusionPipeline

    from linzoo.tools.distillation.draws import draw
    from linzoo.tools.runs.plan import Item

    run = runs("one", "--hflip", kind="sdxl")
    pipe = DiffusionPipeline.from_pretrained(run.args.teacher)
    entry = list_entries("captions", pictures)[5]
    prepared = read_picture(entry.path, 32, "crop")
    with torch.no_grad():
        law = pipe.vae.encode(prepared.pixels.flip(-1)[None]).latent_dist
        prompt, _, pooled, _ = pipe.encode_prompt(entry.content, do_classifier_free_guidance=False)
    factor = pipe.vae.config.scaling_factor
    sample = run.samples.read(5, flipped=True)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sample.mean, law.mean[0] * factor, **close)
    torch.testing.assert_close(sample.deviation, law.std[0] * factor, **close)
    torch.testing.assert_close(sample.conditions["prompt"], prompt[0], **close)
    torch.testing.assert_close(sample.conditions["pooled"], pooled[0], **close)
    assert sample.conditions["time_ids"].tolist() == [34, 40, 0, 3, 32, 32]
    assert not run.samples.absent["prompt"].any()  # SD-XL's empty prompt is zeros by its own setting
    straight = run.samples.read(5)
    assert not torch.equal(straight.mean, sample.mean)
    item = next(
        Item(0, place, 5) for place in range(9) if draw(42, Item(0, place, 5), (4, 16, 16)).flip < 0.5
    )
    batch, numbers = run.batches.make([item]), draw(42, item, (4, 16, 16))
    torch.testing.assert_close(batch.clean[0], sample.mean + sample.deviation * numbers.clean)
    assert torch.equal(batch.noise[0], numbers.noise) and batch.places.item() == pytest.approx(numbers.place)


def test_half_precision_is_kept_in_half_precision(runs):
    run = runs("one", "--cache-dtype", "float16")
    file = run.samples.file(0)
    assert file.get_slice("mean").get_dtype() == "F16" and file.get_slice("time_ids").get_dtype() == "F32"
    assert run.samples.read(0).mean.dtype == torch.float32


def test_mixed_precision_keeps_what_trains_in_float32_and_nothing_else(runs):
    plain = runs("plain")
    run = runs("mixed", "--mixed-precision", "bf16", "--ema-decay", "0.9")
    types = {name: p.dtype for name, p in run.student.named_parameters()}
    assert {t for n, t in types.items() if n in run.trained} == {torch.float32}
    assert {t for n, t in types.items() if n not in run.trained} == {torch.bfloat16}
    assert {p.dtype for p in run.teacher.parameters()} == {torch.bfloat16}
    assert run.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=0.03)
    assert run.history[0]["loss"] != plain.history[0]["loss"]
    assert {v.dtype for v in last(run.folder)["state_dict"].values()} == {torch.float32}
    assert "forward" not in run.student.__dict__  # accelerate's own is gone: unlinearize would meet it


def test_pictures_are_cut_as_the_recipes_say(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    Image.fromarray(np.tile(ramp, (32, 1))).save(tmp_path / "wide.png")
    whole = read_picture(tmp_path / "wide.png", 16, "squash").pixels
    assert whole.shape == (3, 16, 16) and whole[0, 0, 0] < -0.9 and whole[0, 0, -1] > 0.9
    for resize in ("crop", "halve-crop"):
        centre = read_picture(tmp_path / "wide.png", 16, resize)
        assert -0.55 < centre.pixels[0, 0, 0] < -0.4 and 0.4 < centre.pixels[0, 0, -1] < 0.55
        assert centre.sizes.tolist() == [32, 64, 0, 8, 16, 16]


def test_classes_are_numbered_by_their_names(tmp_path):
    data = make_pictures(tmp_path / "data", count=4, form="classes")
    entries = list_entries("classes", data)
    assert [(e.path.parent.name, e.content) for e in entries] == [
        ("class0", 0), ("class0", 0), ("class1", 1), ("class1", 1),
    ]  # fmt: skip


def spoil_nothing(data):
    shutil.rmtree(data)


def spoil_pictures(data):
    for path in data.glob("*.png"):
        path.unlink()
    (data / "metadata.jsonl").unlink()


def spoil_caption(data):
    (data / "metadata.jsonl").unlink()


def spoil_line(data):
    (data / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "a"}\n{"file": "01.png"}')


def spoil_name(data):
    (data / "metadata.jsonl").write_text('{"file_name": "nowhere.png", "text": "a"}')


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (spoil_nothing, FileNotFoundError, "--data-dir must be a folder, .* is none"),
        (spoil_pictures, ValueError, r"--data-dir must hold pictures \(.png .jpg"),
        (spoil_caption, FileNotFoundError, r"--data-dir must have a caption a picture, .*00.txt is missing"),
        (spoil_line, ValueError, r"metadata.jsonl:2 must be JSON with file_name and text, got"),
        (spoil_name, FileNotFoundError, r"metadata.jsonl:1: .*nowhere.png is missing"),
    ],
    ids=["no folder", "no pictures", "no caption", "a line", "a name"],
)
def test_data_that_is_not_whole_is_refused_by_name(tmp_path, spoil, error, message):
    data = make_pictures(tmp_path / "data", count=2)
    spoil(data)
    with pytest.raises(error, match=message):
        list_entries("captions", data)


def test_a_bare_model_takes_its_vae_from_elsewhere(tmp_path, teachers):
    data = make_pictures(tmp_path / "data", count=4, form="classes")
    root = teachers("dit")
    line = words(
        "--dataset classes --method lit -b 2 --max-steps 1 --device cpu --samples 2 --sample-steps 1"
    )
    line += ["--data-dir", str(data), "--cache", str(tmp_path / "cache"), "--log-interval", "1", "--hflip"]
    whole = start(tmp_path, *line, "--teacher", str(root), name="whole")
    assert whole.samples.read(3).conditions["labels"] == 1 and whole.vae is not None
    bare = [*line, "--teacher", str(root / "transformer")]
    with pytest.raises(ValueError, match=r"--vae must be given for --dataset classes: the teacher has none"):
        start(tmp_path, *bare, name="none")
    with pytest.raises(ValueError, match=r"--vae cannot be used with --teacher .*, which has its own"):
        start(tmp_path, *line, "--teacher", str(root), "--vae", str(root / "vae"), name="two")
    with pytest.raises(ValueError, match=r"--vae .*scheduler cannot be loaded: "):
        start(tmp_path, *bare, "--vae", str(root / "scheduler"), name="wrong")
    run = start(tmp_path, *bare, "--vae", str(root / "vae"), name="bare")
    assert run.history == whole.history and (run.folder / "samples" / "step-1.png").is_file()


def test_a_picture_that_cannot_be_read_is_named(tmp_path, runs):
    data = make_pictures(tmp_path / "data")
    (data / "02.png").write_bytes((data / "02.png").read_bytes()[:60])
    with pytest.raises(OSError, match=r"cannot read .*02.png"):
        runs("broken", data=data)
