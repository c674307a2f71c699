"""Where a pinned width meets a widened one, the block between them gets the projection that its class has elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cnnscale

SIZE = (3, 32, 32)


class Block(nn.Module):
    """As authors write it: a projection where the ends differ. It stands before ``last``, not at the end."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.shortcut = None
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.last = nn.Conv2d(after, after, 1)

    def forward(self, x):
        y = self.last(self.norm(self.conv(x)).relu())
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu()


class Net(nn.Module):
    def __init__(self, stem: int = 16, one: int = 16, two: int = 32, blocks: int = 2, block: type[nn.Module] = Block):
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 2, 1)
        self.one = nn.Sequential(block(stem, one), *(block(one, one) for _ in range(blocks - 1)))
        self.two = nn.Sequential(block(one, two, 2), *(block(two, two) for _ in range(blocks - 1)))
        self.head = nn.Linear(two, 10)

    def forward(self, x):
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def test_the_result_is_what_the_author_would_build_in_the_same_order():
    scaled = cnnscale.scale(Net(), width=2, depth=1.5, pin=("^stem",), input_size=SIZE, seed=0)
    author = Net(16, 32, 64, blocks=3)
    assert scaled.scaling.form == "module"
    assert shapes(scaled) == shapes(author)
    author.load_state_dict(scaled.state_dict())
    x = torch.randn(2, *SIZE)
    torch.testing.assert_close(scaled.eval()(x), author.eval()(x))


def test_its_weights_are_drawn_like_those_of_the_projection_it_is_made_after():
    baseline = Net()
    with torch.no_grad():
        baseline.two[0].shortcut[0].weight.normal_(0, 0.25)
        baseline.two[0].shortcut[1].weight.fill_(0.5)
    scaled = cnnscale.scale(baseline, width=4, pin=("^stem",), input_size=SIZE, seed=0)
    made = scaled.one[0].shortcut
    assert made[0].weight.std().item() == pytest.approx(0.25, rel=0.15)
    assert torch.equal(made[1].weight, torch.full((64,), 0.5))


def test_the_plan_counts_it_only_in_the_scaled_network():
    baseline = Net()
    plan = cnnscale.plan(baseline, phi=1, pin=("^stem",), input_size=SIZE)
    assert plan.before == cnnscale.measure(baseline, SIZE)
    assert plan.after == cnnscale.measure(cnnscale.apply(baseline, plan), plan.input_size)
    again = cnnscale.Plan.from_json(plan.to_json())
    assert shapes(cnnscale.apply(baseline, again)) == shapes(cnnscale.apply(baseline, plan))
    assert baseline.one[0].shortcut is None


def test_a_pinned_block_is_set_apart_on_both_sides():
    scaled = cnnscale.scale(Net(blocks=4), width=2, pin=(r"^one\.1\.",), input_size=SIZE)
    ends = [(block.conv.in_channels, block.last.out_channels) for block in scaled.one]
    assert ends == [(32, 32), (32, 16), (16, 32), (32, 32)]
    assert [block.shortcut is not None for block in scaled.one] == [False, True, True, False]


def test_no_width_no_projection():
    scaled = cnnscale.scale(Net(), depth=2, pin=("^stem",), input_size=SIZE)
    assert [block.shortcut for block in scaled.one] == [None] * 4


def test_a_width_that_is_rounded_back_needs_none():
    with pytest.raises(cnnscale.WidthError, match=r"'one\.0' stands between .* rounded back to the same number"):
        cnnscale.scale(Net(), width=1.1, pin=("^stem",), input_size=SIZE)


class Plain(nn.Module):
    """A block whose class has no projection: where its ends differ, it adds nothing."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1)
        self.adds = stride == 1 and before == after

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


def test_without_an_example_of_a_projection_it_is_refused():
    with pytest.raises(cnnscale.WidthError, match=r"'stem' is pinned at 16 .* no block between them"):
        cnnscale.scale(Net(block=Plain), width=2, pin=("^stem",), input_size=SIZE)
