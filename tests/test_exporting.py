"""Scaled networks as files that do without cnnscale: what they hold, what they say, and what is refused."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from checks import CAMPAIGN, for_nets, scaled
from nets import NetSpec
from torch import nn

import cnnscale
from cnnscale.exporting import source_file
from cnnscale.loading import EXPORTS, PLAN_FILE, SOURCE_FILE, WEIGHTS_FILE, save

CLASSIFIERS = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] < 1e8
    and not name.startswith(("vit", "swin", "maxvit"))
]
SMALL = {"input_size": (3, 32, 32), "divisor": 4}


class Block(nn.Module):
    def __init__(self, width: int, rate: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.rate = rate

    def forward(self, x):
        return x + nn.functional.dropout(self.norm(self.conv(x)).relu(), self.rate, self.training)


class Net(nn.Module):
    """Auxiliary head in train mode, functional dropout, stages in a list, a name that is no identifier."""

    def __init__(self, width: int = 8, count: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList(Block(width, 0.1 * i) for i in range(count))
        self.add_module("an aux", nn.Linear(width, 10))
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        pooled = (x * self.scale).mean((2, 3))
        if self.training:
            return self.head(pooled), self.get_submodule("an aux")(pooled)
        return self.head(pooled)


class Wide(nn.Module):
    """Keeps the argument of its constructor."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)).view(-1, self.width))


def built(text: str) -> nn.Module:
    """What the file makes, in a namespace of its own."""
    names: dict[str, object] = {"__name__": "model"}
    exec(text, names)
    return names["build"]()


def imported(text: str) -> set[str]:
    tree = ast.walk(ast.parse(text))
    return {n.split(".")[0] for n in (_module(node) for node in tree) if n}


def _module(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        return node.names[0].name
    return (node.module or "") if isinstance(node, ast.ImportFrom) else ""


def agree(model: nn.Module, text: str, size: tuple[int, ...], mode: bool) -> None:
    other = built(text)
    other.load_state_dict(model.state_dict())
    images, outputs = torch.randn(3, *size), []
    for net in (model.train(mode), other.train(mode)):
        torch.manual_seed(5)
        outputs.append(net(images))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)


class TestSource:
    def test_it_computes_the_same_in_both_modes(self):
        model, _ = scaled(Net(), depth=2, width=1.5, **SMALL)
        text, notes = source_file(model)
        assert not notes
        assert imported(text) == {"torch", "safetensors"}
        assert list(built(text).state_dict()) == list(model.state_dict())
        for mode in (False, True):
            agree(model, text, model.scaling.input_size, mode)

    def test_it_reads_as_its_author_would_write_it(self):
        model, _ = scaled(Net(), depth=2, width=1.5, **SMALL)
        text, _ = source_file(model)
        assert text.count("class Block(nn.Module):") == text.count("class ") - 1 == 1
        assert "    def __init__(self, channels, rate):" in text
        assert "        for layer in self.blocks:\n            x = layer(x)\n" in text
        assert "training=self.training" in text
        assert "        if self.training:\n" in text

    def test_a_class_whose_arguments_are_its_attributes_is_called(self):
        model, _ = scaled(Wide(), width=2, **SMALL)
        text, notes = source_file(model)
        assert not notes
        assert "class " not in text
        assert "from test_exporting import Wide\n" in text
        assert "    model = Wide(width=16)\n" in text
        agree(model, text, model.scaling.input_size, mode=True)

    def test_layers_that_grow_one_list(self):
        net = torchvision.models.DenseNet(4, (4, 3), 8, num_classes=10)
        model, _ = scaled(net, width=2, depth=1, **SMALL)
        text, _ = source_file(model)
        assert "            features.append(layer(features))\n" in text
        agree(model, text, model.scaling.input_size, mode=False)

    def test_what_is_shared_stays_shared(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Conv2d(3, 8, 3, padding=1)
                self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
                self.two.weight = self.one.weight
                self.norm = nn.BatchNorm2d(8)
                self.again = self.norm
                self.head = nn.Linear(8, 10)

            def forward(self, x):
                return self.head(self.again(self.two(self.norm(self.one(self.stem(x))))).mean((2, 3)))

        model, _ = scaled(Shared(), width=2, **SMALL)
        net = built(source_file(model)[0])
        assert net.two.weight is net.one.weight
        assert net.again is net.norm

    def test_the_model_and_the_generators_stay(self):
        model, _ = scaled(Net(), width=1.5, **SMALL)
        before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
        source_file(model)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert model.training

    def test_any_other_net(self):
        def check(spec: NetSpec) -> None:
            model, _ = scaled(spec.build(), width=1.5, input_size=spec.size)
            text, notes = source_file(model)
            assert not notes
            agree(model, text, model.scaling.input_size, mode=True)

        assert for_nets(5, check) >= 5

    @pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
    @pytest.mark.parametrize("name", CLASSIFIERS if CAMPAIGN else ["shufflenet_v2_x0_5"])
    def test_classifiers(self, name):
        model, _ = scaled(torchvision.models.get_model(name, weights=None), 0.5, input_size=(3, 96, 96))
        text, notes = source_file(model)
        assert not notes, notes
        agree(model, text, model.scaling.input_size, mode=False)


class TestWhatIsLeftOut:
    def test_train_mode_that_cannot_be_followed_is_said(self):
        class Random(Net):
            def forward(self, x):
                if self.training and torch.rand(()) < 0.5:
                    return super().forward(x)[0]
                return nn.functional.relu(self.head(self.stem(x).mean((2, 3))))

        model, _ = scaled(Random(count=1), width=1.5, **SMALL)
        text, notes = source_file(model)
        assert len(notes) == 1
        assert "eval mode" in notes[0]
        assert f"Note: {notes[0]}" in text
        agree(model, text, model.scaling.input_size, mode=False)

    def test_a_size_by_which_the_model_decides_is_said(self):
        class Sized(Net):
            def forward(self, x):
                return super().forward(x if x.shape[-1] > 40 else 2 * x)

        model, _ = scaled(Sized(), width=1.5, **SMALL)
        text, notes = source_file(model)
        assert len(notes) == 1
        assert "for images of 3x32x32 only" in notes[0]
        assert f"Note: {notes[0]}" in text

    def test_what_cannot_be_written_is_an_error_that_says_why(self):
        class Table(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("table", torch.randn(32, 32), persistent=False)

            def forward(self, x):
                return super().forward(x + self.table)

        model, _ = scaled(Table(), width=1.5, **SMALL)
        with pytest.raises(cnnscale.ExportError, match=r"Table cannot be written as Python: .*persistent buffer"):
            source_file(model)

    def test_hooks_are_said_to_be_missing_and_never_run(self):
        calls = []
        model, _ = scaled(Net(), width=1.5, **SMALL)
        model.head.register_forward_hook(lambda *_: calls.append(1))
        assert source_file(model)[1] == ("hooks are not part of it",)
        assert not calls


class TestSave:
    def test_other_files_are_written_where_one_cannot(self, tmp_path: Path, monkeypatch):
        from cnnscale import exporting

        def refuse(_model: nn.Module, *_rest: object) -> None:
            raise cnnscale.ExportError("not today")

        monkeypatch.setattr(exporting, "source_file", refuse)
        monkeypatch.setattr(exporting, "torch_file", refuse)
        model, _ = scaled(Net(), width=1.5, **SMALL)
        with (
            pytest.warns(cnnscale.ExportWarning, match=r"model\.py: was not written: not today"),
            pytest.raises(cnnscale.ExportError, match=r"model\.pt2 was not written: not today"),
        ):
            save(model, tmp_path, exports=["torch"])
        assert sorted(p.name for p in tmp_path.iterdir()) == [WEIGHTS_FILE, PLAN_FILE]

    def test_a_format_that_does_not_exist_is_refused_before_anything_is_written(self, tmp_path: Path):
        model, _ = scaled(Net(), width=1.5, **SMALL)
        with pytest.raises(cnnscale.UsageError, match="there is no format 'tflite'"):
            save(model, tmp_path, exports=["tflite"])
        assert not list(tmp_path.iterdir())

    def test_exports_give_the_models_outputs_for_any_batch(self, tmp_path: Path):
        onnxruntime = pytest.importorskip("onnxruntime")
        model, _ = scaled(Net(), width=1.5, **SMALL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporters
            written = save(model, tmp_path, exports=["onnx", "torch"])
            assert [p.name for p in written] == [WEIGHTS_FILE, PLAN_FILE, SOURCE_FILE, *EXPORTS.values()]
            images = torch.randn(5, *model.scaling.input_size)
            wanted = model.eval()(images)
            session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
            (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            again = torch.export.load(tmp_path / "model.pt2").module()(images)
        torch.testing.assert_close(torch.as_tensor(got), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again, wanted, rtol=1e-4, atol=1e-5)

    def test_wrong_outputs_are_not_kept(self, tmp_path: Path, monkeypatch):
        from cnnscale.exporting import formats, python

        for module in (formats, python):
            monkeypatch.setattr(module, "difference", lambda *_: 0.1)
        model, _ = scaled(Net(), width=1.5, **SMALL)
        with pytest.raises(cnnscale.ExportError, match="differ"):
            source_file(model)
        with pytest.raises(cnnscale.ExportError, match="differ"), pytest.warns(cnnscale.ExportWarning):
            save(model, tmp_path, exports=["torch"])
        assert not (tmp_path / EXPORTS["torch"]).exists()
        assert not (tmp_path / SOURCE_FILE).exists()
