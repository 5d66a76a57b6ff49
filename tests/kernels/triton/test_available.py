"""Which tensors the Triton kernels take, without a GPU: fake CUDA tensors and a GPU's properties put in."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip("triton")

from linzoo.kernels import BackendError
from linzoo.kernels.dispatch import BACKENDS, choose
from linzoo.kernels.triton_available import why_not


@pytest.fixture
def cuda_tensor():
    with FakeTensorMode():
        return torch.empty(1, 3, 2, 4, device="cuda", dtype=torch.float16)


def put_in(monkeypatch, major: int, minor: int, hip: str | None = None) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = SimpleNamespace(major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)


def test_a_gpu_before_ampere_is_refused_by_name_and_auto_takes_eager(monkeypatch, cuda_tensor):
    put_in(monkeypatch, 7, 5)
    with pytest.raises(BackendError, match=r"needs compute capability 8\.0 or later, the GPU has 7\.5"):
        choose("linear_attn", BACKENDS, "triton", cuda_tensor)
    assert choose("linear_attn", BACKENDS, "auto", cuda_tensor) == "eager"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_ampere_and_later_take_triton(monkeypatch, cuda_tensor, capability):
    put_in(monkeypatch, *capability)
    assert choose("linear_attn", BACKENDS, "auto", cuda_tensor) == "triton"


def test_an_amd_gpu_is_not_asked_for_a_compute_capability(monkeypatch, cuda_tensor):
    put_in(monkeypatch, 7, 0, hip="6.4")
    assert why_not(cuda_tensor) is None


def test_a_cpu_tensor_asks_no_gpu(monkeypatch):
    def asked(device):
        raise AssertionError("a GPU was asked")

    monkeypatch.setattr(torch.cuda, "get_device_properties", asked)
    assert why_not(torch.empty(1, 3, 2, 4)) == "tensors are on cpu, needs cuda"
