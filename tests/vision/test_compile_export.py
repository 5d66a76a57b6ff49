"""torch.compile, torch.export, torch.jit.trace and ONNX on every family.

Variants that differ in widths, depths and heads only are the same code and tried once, narrow. Depths are
cut to the fewest blocks that hold each kind, since tracing time grows with depth and each further block
repeats the same code. By default one model a family is compiled and exported, and Inductor, saving and ONNX,
which do the same to every model, run on one; ``--all-cases`` runs every structure through the former and
every class through the latter.
"""

import io
import warnings

import pytest
import timm
import torch

from ..sampling import sampled
from .slim import FAMILY_OF, forms, narrow, slim_depths, structures

FIRST = list({FAMILY_OF[name]: name for name in reversed(forms())}.values())  # one of each family
every_structure = pytest.mark.parametrize("name", sampled(structures(), FIRST))
every_form = pytest.mark.parametrize("name", forms())
# its mixers have rotation and weights, and softmax stands beside them: what tracing finds hardest
one_form = pytest.mark.parametrize("name", sampled(forms(), ["ravlt_tiny"]))

# what the exported program must take: odd sizes, another batch, one window a side and several
DYNAMIC = {
    "x": {
        0: torch.export.Dim("batch", min=1, max=64),
        2: torch.export.Dim("height", min=33, max=4096),
        3: torch.export.Dim("width", min=33, max=4096),
    }
}
EXAMPLE = (2, 3, 72, 100)
OTHERS = [(1, 3, 64, 64), (3, 3, 45, 131), (1, 3, 224, 300)]


def build(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, **slim_depths(name), **{"drop_path_rate": 0.0, **kwargs}).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif key.endswith(".gamma"):
                value.fill_(1)
    return model


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def close(got, want, tolerance=1e-4):
    error = ((got - want).norm() / want.norm()).item()
    assert error < tolerance, f"off by {error:.2e}"


@pytest.mark.slow
@every_structure
def test_compiled_in_one_graph_forward_and_backward_are_the_eager_ones(name):
    model = build(name, **narrow(name))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    want = model(x)
    want.square().sum().backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    got = compiled(x)
    close(got, want)
    got.square().sum().backward()
    for key, parameter in model.named_parameters():
        scale = gradients[key].norm().clamp(min=1e-3 * parameter.norm())
        assert (parameter.grad - gradients[key]).norm() < 2e-3 * scale, key


@pytest.mark.slow
@one_form
def test_inductor_gives_the_eager_outputs(name):
    model = build(name, **narrow(name))
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        x = torch.randn(2, 3, 64, 80)
        close(compiled(x), model(x))


@pytest.mark.slow
@every_structure
def test_exported_with_dynamic_batch_height_and_width(name):
    model = build(name, **narrow(name))
    program = torch.export.export(model, (torch.randn(*EXAMPLE),), dynamic_shapes=DYNAMIC)
    exported = program.module()
    with torch.no_grad():
        for size in OTHERS:
            x = torch.randn(*size)
            close(exported(x), model(x))


@pytest.mark.slow
@one_form
def test_an_exported_program_survives_saving(name):
    model = build(name, **narrow(name))
    program = torch.export.export(model, (torch.randn(*EXAMPLE),), dynamic_shapes=DYNAMIC)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        for size in OTHERS:
            x = torch.randn(*size)
            close(loaded(x), model(x))


@pytest.mark.slow
@one_form
def test_onnxruntime_computes_the_same_at_other_sizes(name, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(name, **narrow(name))
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (torch.randn(*EXAMPLE),), path, dynamo=True, dynamic_shapes=DYNAMIC, verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    with torch.no_grad():
        for size in OTHERS:
            x = torch.randn(*size)
            (got,) = session.run(None, {entry: x.numpy()})
            close(torch.from_numpy(got), model(x))


@every_form
@pytest.mark.parametrize("side", [64, 112])  # grids that windows of 7 do not divide, and grids that they do
def test_a_trace_made_at_one_size_runs_at_others(name, side):
    model = build(name, **narrow(name))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the checks of the image's shape are not recorded
        traced = torch.jit.trace(model, torch.randn(1, 3, side, side), check_trace=False)
        for size in [(1, 3, 64, 64), (2, 3, 96, 70), (1, 3, 45, 131)]:
            x = torch.randn(*size)
            close(traced(x), model(x))
