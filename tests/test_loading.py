"""From a name to a model: what can be named, what goes wrong and how that is said; and saving and rebuilding."""

from __future__ import annotations

import pickle
import re
import socket
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnscale.errors import CnnScaleError, ModelError, UsageError
from cnnscale.loading import PLAN_FILE, WEIGHTS_FILE, check_output, load, load_weights, save

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    def build():
        return Net()

    def _helper():
        return None

    def broken():
        width = 3
        raise ValueError(f"bad width {width}")

    def returns_list():
        return [Net()]

    def needs(classes, *, width):
        return Net()

    def sized():
        net = Net()
        net.default_cfg = {"input_size": (3, 192, 160)}
        return net

    instance = Net()
    number = 3
"""


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(textwrap.dedent(NET), encoding="utf-8")
    return path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


class TestZoos:
    def test_torchvision_by_name(self, no_network):
        loaded = load("resnet18")
        assert (loaded.name, loaded.input_size) == ("resnet18", (3, 224, 224))
        assert type(loaded.model).__module__ == "torchvision.models.resnet"

    def test_the_size_is_the_one_that_its_weights_were_made_for(self, no_network):
        assert load("efficientnet_b3").input_size == (3, 300, 300)

    def test_a_zoo_does_not_warn_about_what_the_user_did_not_type(self, no_network):
        assert load("googlenet").input_size == (3, 224, 224)  # warnings are errors in these tests

    def test_timm_by_name(self, no_network):
        loaded = load("timm:efficientnet_lite1")
        assert loaded.input_size == (3, 240, 240)
        assert type(loaded.model).__module__.startswith("timm.")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("resnet51", r"torchvision has no classifier 'resnet51'; did you mean .*resnet50"),
            ("timm:resnet51", r"timm has no model 'resnet51'; did you mean .*resnet51q"),
            ("zzzzzzzz", r"torchvision has no classifier 'zzzzzzzz'$"),
            ("timm:hf-hub:someone/something", r"timm has no model"),
            ("fasterrcnn_resnet50_fpn", r"not one of torchvision's image classifiers"),
        ],
    )
    def test_unknown_names_suggest_close_ones(self, no_network, spec: str, message: str):
        with pytest.raises(ModelError, match=message):
            load(spec)

    @pytest.mark.parametrize(("library", "spec"), [("torchvision", "resnet18"), ("timm", "timm:resnet18")])
    def test_a_missing_zoo_names_its_extra(self, monkeypatch, library: str, spec: str):
        monkeypatch.setitem(sys.modules, library, None)  # import raises ModuleNotFoundError
        with pytest.raises(ModelError, match=re.escape(f'pip install "cnnscale[{library}]"')):
            load(spec)


class TestFactories:
    def test_a_function_in_a_file(self, net_file: Path):
        loaded = load(f"{net_file}:build")
        assert type(loaded.model).__name__ == "Net"
        assert loaded.input_size is None
        assert loaded.name == f"{net_file}:build"

    def test_a_class_or_a_model_will_do(self, net_file: Path):
        assert type(load(f"{net_file}:Net").model).__name__ == "Net"
        assert type(load(f"{net_file}:instance").model).__name__ == "Net"

    def test_a_relative_path(self, net_file: Path, monkeypatch):
        monkeypatch.chdir(net_file.parent)
        assert type(load("my_net.py:build").model).__name__ == "Net"

    def test_an_importable_module(self, net_file: Path, monkeypatch):
        monkeypatch.chdir(net_file.parent)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        monkeypatch.delitem(sys.modules, "my_net", raising=False)
        assert type(load("my_net:build").model).__module__ == "my_net"

    def test_the_size_that_the_model_declares(self, net_file: Path):
        assert load(f"{net_file}:sized").input_size == (3, 192, 160)

    def test_classes_of_a_file_can_be_pickled(self, net_file: Path):
        model = load(f"{net_file}:build").model
        again = pickle.loads(pickle.dumps(model))
        assert type(again) is type(model)

    def test_the_same_file_twice_is_one_module_and_an_edited_file_another(self, net_file: Path):
        first, second = load(f"{net_file}:build").model, load(f"{net_file}:build").model
        assert type(first) is type(second)
        net_file.write_text(net_file.read_text(encoding="utf-8").replace("8, 3)", "16, 3)"), encoding="utf-8")
        edited = load(f"{net_file}:build").model
        assert edited.conv.out_channels == 16
        pickle.dumps(first)

    def test_files_of_one_name_do_not_collide(self, net_file: Path, tmp_path: Path):
        other = tmp_path / "other" / net_file.name
        other.parent.mkdir()
        other.write_text(net_file.read_text(encoding="utf-8"), encoding="utf-8")
        assert type(load(f"{net_file}:build").model) is not type(load(f"{other}:build").model)

    def test_siblings_can_be_imported_and_the_path_is_left_in_order(self, tmp_path: Path):
        (tmp_path / "sibling_of_net.py").write_text("WIDTH = 24\n", encoding="utf-8")
        (tmp_path / "uses.py").write_text(
            "from torch import nn\nfrom sibling_of_net import WIDTH\n"
            "def build():\n    import sibling_of_net\n    return nn.Conv2d(3, WIDTH, 1)\n",
            encoding="utf-8",
        )
        before = list(sys.path)
        assert load(f"{tmp_path / 'uses.py'}:build").model.out_channels == 24
        assert sys.path[: len(before)] == before

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("buildd", r"has no 'buildd'; did you mean build\?"),
            ("broken", r"broken failed: ValueError: bad width 3 \(.*my_net\.py:21, in broken\)"),
            ("returns_list", r"returned list, not an nn\.Module"),
            ("needs", r"cannot be called without arguments \(.*'classes'\)"),
            ("number", r"is of type int, not a function"),
        ],
    )
    def test_what_can_be_wrong_with_a_factory(self, net_file: Path, factory: str, message: str):
        with pytest.raises(ModelError, match=message):
            load(f"{net_file}:{factory}")

    def test_the_line_named_is_the_users_not_torchs(self, tmp_path: Path):
        path = tmp_path / "bad.py"
        path.write_text("from torch import nn\n\ndef build():\n    return nn.Conv2d(3, 7, 1, groups=2)\n", "utf-8")
        with pytest.raises(ModelError, match=r"ValueError: .*bad\.py:4, in build"):
            load(f"{path}:build")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("x = = 1\n", r"importing .*bad\.py failed: SyntaxError: .*bad\.py:1\)"),
            ("\nimport nowhere_to_be_found\n", r"No module named 'nowhere_to_be_found' \(.*bad\.py:2"),
            ("1 / 0\n", r"ZeroDivisionError: division by zero \(.*bad\.py:1"),
        ],
    )
    def test_a_file_that_cannot_be_imported(self, tmp_path: Path, source: str, message: str):
        (tmp_path / "bad.py").write_text(source, encoding="utf-8")
        for _ in range(2):  # the failed import leaves nothing behind that a second try would find
            with pytest.raises(ModelError, match=message):
                load(f"{tmp_path / 'bad.py'}:build")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("no/such/file.py:build", r"cannot read no/such/file\.py: No such file"),
            ("no_such_package:build", r"no module named 'no_such_package'"),
            ("torch.no_such_part:build", r"no module named 'torch\.no_such_part'"),
            ("some/net.py", r"which function builds the model\? .*some/net\.py:FUNCTION"),
        ],
    )
    def test_what_does_not_exist(self, spec: str, message: str):
        with pytest.raises(ModelError, match=message):
            load(spec)

    def test_a_module_whose_own_import_fails_is_not_called_missing(self, tmp_path: Path, monkeypatch):
        (tmp_path / "needs_more.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=r"importing needs_more failed: .*'nowhere_to_be_found'"):
            load("needs_more:build")


class TestOutputFolder:
    def test_a_new_folder_is_fine_and_not_created(self, tmp_path: Path):
        check_output(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", [WEIGHTS_FILE, PLAN_FILE])
    def test_files_are_not_overwritten_unless_forced(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("precious", encoding="utf-8")
        with pytest.raises(UsageError, match=rf"{re.escape(name)} would be overwritten; pass --force"):
            check_output(tmp_path)
        check_output(tmp_path, force=True)

    def test_a_folder_below_a_file_cannot_be_written(self, tmp_path: Path):
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(CnnScaleError, match="cannot write to"):
            check_output(tmp_path / "file" / "out")

    def test_only_scaled_models_can_be_saved(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"has no \.scaling"):
            save(nn.Conv2d(3, 8, 1), tmp_path)


class TestWeights:
    def test_weights_of_another_model_are_refused(self, tmp_path: Path):
        from safetensors.torch import save_model

        save_model(nn.Conv2d(3, 8, 1), str(tmp_path / "other.safetensors"))
        for model in (nn.Conv2d(3, 9, 1), nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)):
            with pytest.raises(ModelError, match=r"other\.safetensors does not fit the model: Error\(s\)"):
                load_weights(model, tmp_path / "other.safetensors")

    @pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
    def test_a_file_that_is_none(self, tmp_path: Path, content: bytes | None):
        if content is not None:
            (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot read .*w\.safetensors"):
            load_weights(nn.Conv2d(3, 8, 1), tmp_path / "w.safetensors")
