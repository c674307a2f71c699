"""Law 8: what a scaled model is used for next works as for any module."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle

import pytest
import torch
from checks import bad_gradients, scaled, train_step
from nets import NetSpec, StageSpec
from twins import published

INVERTED = StageSpec("inverted", 16, 1, stride=2, ratio=4, se=4, shortcut="use_res")
NETS = {
    "residual": NetSpec((StageSpec("basic", 12, 2, stride=2), StageSpec("bottleneck", 24, 2, stride=2))),
    "inverted": NetSpec((INVERTED, StageSpec("split", 20, 2, stride=2, groups=2)), act="silu", drop_path=0.2),
    "dense": NetSpec((StageSpec("dense_dict", 12, 2), StageSpec("gather", 20, 2)), norm="gn", head="grid"),
    "layer_scale": NetSpec((StageSpec("layer_scale", 20, 2, stride=2),), stem="patch", norm="ln_permute", head="mean"),
    "by_hand": NetSpec((StageSpec("basic", 12, 3, stride=2), StageSpec("concat", 24, 2)), container="hand_flat"),
    "forked": NetSpec(
        (StageSpec("plain", 12, 2), StageSpec("csp", 20, 2)), aux=True, extra="tied", conv="standardised"
    ),
}


@pytest.fixture(scope="module", params=[*NETS, "resnet18"])
def net(request):
    """A scaled model in eval mode, a batch for it, and its output."""
    if request.param == "resnet18":
        baseline, size = published("resnet18", num_classes=10), (3, 64, 64)
    else:
        baseline, size = NETS[request.param].build(), NETS[request.param].size
    model, _ = scaled(baseline, 1, input_size=size, seed=0)
    images = torch.randn(2, *model.scaling.input_size, generator=torch.Generator().manual_seed(0))
    model.eval()
    return model, images, model(images).detach()


def test_state_dict_loads_strictly(net):
    model, images, expected = net
    other = copy.deepcopy(model)
    for p in other.parameters():
        torch.nn.init.zeros_(p)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert other(images).equal(expected)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_whole_and_independent(net, duplicate):
    model, images, expected = net
    other = duplicate(model)
    assert other(images).equal(expected)
    assert other.scaling == model.scaling
    assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert model(images).equal(expected)


def test_whole_model_is_saved_by_torch(net):
    model, images, expected = net
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)(images).equal(expected)


def test_export(net):
    model, images, expected = net
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), expected)


@pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="onnxscript is not installed")
def test_onnx(net, tmp_path):
    model, images, _ = net
    program = torch.onnx.export(model, (images,), dynamo=True)
    program.save(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 0


def test_compile(net):
    model, images, expected = net
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), expected)


def test_channels_last(net):
    model, images, expected = net
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    output = other(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_autocast(net):
    model, images, expected = net
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.shape == expected.shape
    assert output.isfinite().all()


def test_double_precision(net):
    model, images, expected = net
    output = copy.deepcopy(model).double()(images.double())
    torch.testing.assert_close(output.float(), expected, rtol=1e-3, atol=1e-4)


def test_train_step_and_optimizer(net):
    model, images, expected = net
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    train_step(other, tuple(images.shape[1:]))
    assert not bad_gradients(other)
    optimizer.step()
    assert not other.eval()(images).equal(expected)


def test_scaled_models_scale_again(net):
    model, images, _ = net
    again, _ = scaled(model, 1, input_size=tuple(images.shape[1:]))
    assert again.scaling.plan.before == model.scaling.plan.after
    assert again.eval()(torch.randn(1, *again.scaling.input_size)).shape == (1, 10)
