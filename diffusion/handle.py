"""What ``linearize`` returns: the way back, the files, the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .guards import check_unadapted, check_unhooked
from .swap import RECORD, Swap, suspended, undo
from .weights import SUBFOLDER

if TYPE_CHECKING:
    from .method import Method
    from .report import Report

VAE_SCALE_FACTOR = 8  # pixels a latent position, where no pipeline says


class LinearizedHandle:
    """A linearized model. It holds no weights: any number of handles may stand for one model.

    Attributes:
        model: the UNet or transformer.
        pipe: the pipeline that was linearized, or None.
    """

    def __init__(self, model: nn.Module, pipe: Any = None) -> None:
        self.model, self.pipe = model, pipe

    def __repr__(self) -> str:
        if RECORD not in self.model.__dict__:
            return f"LinearizedHandle({type(self.model).__name__}, not linearized any more)"
        what = f"{type(self.model).__name__}, {self.method.name!r}, {len(self.modules)} attentions"
        return f"LinearizedHandle({what})"

    @property
    def swap(self) -> Swap:
        """The record on the model. Raises: ValueError after ``unlinearize``."""
        if RECORD not in self.model.__dict__:
            raise ValueError("the model is not linearized any more: unlinearize was called")
        return self.model.__dict__[RECORD]

    @property
    def method(self) -> Method:
        from .linearize import method_named

        return method_named(self.swap.method)

    @property
    def options(self) -> Any:
        """The method's options, a frozen dataclass."""
        return self.swap.options

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The swapped attentions by dotted name, in ``named_modules()`` order."""
        return {name: record.module for name, record in self.swap.modules.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the swap owns, by the model's own names; distillation trains these."""
        found: dict[str, nn.Parameter] = {}
        for name, record in self.swap.modules.items():
            for own in dict.fromkeys((*record.children, *record.added)):
                value = getattr(record.module, own)
                if isinstance(value, nn.Parameter):
                    found[f"{name}.{own}"] = value
                elif isinstance(value, nn.Module):
                    found |= {f"{name}.{own}.{n}": p for n, p in value.named_parameters()}
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """``parameters()`` as tensors: what ``linearize(weights=...)`` takes."""
        return {name: p.detach() for name, p in self.parameters().items()}

    def unlinearize(self) -> None:
        """Softmax attention and the original weights again, bit for bit.

        Raises: ValueError when hooks or LoRA weights sit on swapped layers; nothing is changed then.
        """
        check_unhooked(self.model, "unlinearize")
        check_unadapted(self.modules)
        undo(self.model, self.swap, self.method)

    @contextmanager
    def softmax(self) -> Iterator[None]:
        """The original model inside a ``with`` block: for what reads the model's structure or saves it,
        ``ControlNetModel.from_unet(unet)`` for one."""
        check_unhooked(self.model, "handle.softmax()")
        check_unadapted(self.modules)
        with suspended(self.model, self.swap, self.method):
            yield

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the swapped weights and options, in the authors' format where there is one.

        ``linearize(pipe, method, weights=save_directory)`` reads them.

        Raises: ValueError when the weights are offloaded from all memory (sequential offloading).
        """
        if any(parameter.is_meta for parameter in self.model.parameters()):
            raise ValueError(
                "save_pretrained needs the weights, they are offloaded. Call pipe.remove_all_hooks() first"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.method.write(self, folder)

    def save_pipeline(self, save_directory: str | Path, **words: Any) -> None:
        """Write the whole pipeline: the softmax one, as diffusers reads it, and the swap in ``linearized/``.

        ``load_pipeline(save_directory)`` gives the linear pipeline back; diffusers alone reads the softmax
        one.

        Args:
            words: of the pipeline's ``save_pretrained``.
        Raises: ValueError when a bare model was linearized.
        """
        if self.pipe is None:
            raise ValueError(
                "save_pipeline needs a pipeline, a bare model was linearized; use save_pretrained"
            )
        swap = self.swap
        with self.softmax():
            self.pipe.save_pretrained(save_directory, **words)
        self.save_pretrained(Path(save_directory) / SUBFOLDER)
        note = {"method": swap.method}
        (Path(save_directory) / SUBFOLDER / "method.json").write_text(json.dumps(note) + "\n")

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """``save_pretrained`` into a repository of the Hub. Returns: the commit's address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return str(
                api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload {repo_id}")
            )

    def report(
        self, height: int | None = None, width: int | None = None, *, vae_scale_factor: int | None = None
    ) -> Report:
        """What was swapped, module by module: parameters, bytes per token, FLOPs of one image.

        Args:
            height, width: of the picture in pixels; None: the model's own size.
            vae_scale_factor: pixels a latent position; None: the pipeline's, 8 for a bare model.
        """
        from .report import make_report

        factor = vae_scale_factor or getattr(self.pipe, "vae_scale_factor", None) or VAE_SCALE_FACTOR
        return make_report(self, height, width, factor)


def load_pipeline(directory: str | Path, **words: Any) -> Any:
    """The linear pipeline that ``handle.save_pipeline`` wrote.

    Args:
        words: of ``DiffusionPipeline.from_pretrained``.
    """
    from diffusers import DiffusionPipeline

    from .linearize import linearize

    note = Path(directory) / SUBFOLDER / "method.json"
    if not note.is_file():
        raise ValueError(
            f"directory must be one that handle.save_pipeline wrote, {directory} has no {SUBFOLDER}/"
        )
    pipe = DiffusionPipeline.from_pretrained(directory, **words)
    linearize(pipe, json.loads(note.read_text())["method"], weights=Path(directory) / SUBFOLDER)
    return pipe
