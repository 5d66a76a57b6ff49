"""Tiny teachers on disk, with text encoders and tokenizers made in memory, and small folders of pictures."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image

from ..diffusion.pipelines import build

CAPTIONS = ("a red square", "a blue sky", "grass", "two dogs on a road", "night", "a cat", "snow", "x")


def clip_tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_text(tokenizer, width=32, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=width if projected else 16, eos_token_id=2,
        bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5(width=32):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = ["<pad>", "</s>", "<unk>", *sorted({word for text in CAPTIONS for word in text.split()})]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=16, **names)
    config = T5Config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(config).eval()


def texts(kind):
    """Text encoders and tokenizers by their names in the pipeline."""
    if kind in ("pixart_sigma", "pixart_alpha", "dit"):
        return {} if kind == "dit" else dict(zip(("tokenizer", "text_encoder"), t5(), strict=True))
    tokenizer = clip_tokenizer()
    found = {"tokenizer": tokenizer, "text_encoder": clip_text(tokenizer)}
    if kind == "sdxl":
        found["text_encoder"] = clip_text(tokenizer, 16)
        found |= {"tokenizer_2": tokenizer, "text_encoder_2": clip_text(tokenizer, 16, projected=True)}
    if kind == "flux":
        found |= dict(zip(("tokenizer_2", "text_encoder_2"), t5(), strict=True))
    if kind == "sd3":
        found["text_encoder"] = clip_text(tokenizer, 32, projected=True)
        found |= {"tokenizer_2": tokenizer, "text_encoder_2": clip_text(tokenizer, 32, projected=True)}
        found |= dict(zip(("tokenizer_3", "text_encoder_3"), t5(64), strict=True))
    return found


CHANGES = {
    "flux": {"num_single_layers": 4},  # so that one is compared
    "sd3": {"joint_attention_dim": 64, "caption_projection_dim": 32},
}


def pipeline(kind, **changes):
    """A tiny pipeline with everything that a caption needs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        tiny = build(kind, **CHANGES.get(kind, {}) | changes)
        parts = tiny.pipe.components | texts(kind)
    if kind == "sd":
        parts["requires_safety_checker"] = False
    return type(tiny.pipe)(**parts)


def save_teacher(folder, kind, **changes):
    pipeline(kind, **changes).save_pretrained(folder)
    return folder


def save_digits_teacher(folder, layers=2):
    """A bare DiT for the digits, with random weights that are not silent."""
    from diffusers import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = DiTTransformer2DModel(
            sample_size=8, patch_size=1, in_channels=1, out_channels=2, num_layers=layers,
            num_attention_heads=4, attention_head_dim=8, num_embeds_ada_norm=10,
            norm_type="ada_norm_zero", norm_elementwise_affine=False,
        )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def make_pictures(folder, count=8, form="jsonl", sides=(40, 34)):
    """Pictures with captions (form jsonl or txt), or in two folders of classes (form classes)."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(count):
        place = folder / f"class{number % 2}" if form == "classes" else folder
        place.mkdir(parents=True, exist_ok=True)
        name = f"{number:02d}.png"
        pixels = draw.integers(0, 255, (sides[1], sides[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / name)
        caption = CAPTIONS[number % len(CAPTIONS)]
        if form == "txt":
            (place / f"{number:02d}.txt").write_text(caption)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    if form == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder
