"""A copy on the meta device is what ``copy.deepcopy`` makes, weights and, on request, hooks aside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from cnnscale.copying import meta_copy


class Net(nn.Module):
    """Whatever modules hold: each other, tied weights, tables, and a way of their own to be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.tied = nn.Conv2d(3, 8, 3)
        self.tied.weight = self.body[0].weight
        self.again = self.body[1]
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.own, self.kept = Own(), Kept()
        self.table: dict[str, Any] = {"sizes": [3, (8, [9])], "outer": [self], "kinds": {int}}
        self.same = self.table
        self.register_buffer("scale", torch.ones(3), persistent=False)
        self.register_forward_hook(print)


class Own(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        made = Own()
        made.copied = True
        return made


class Kept(nn.Module):
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "written": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "read": True})


def described(module: nn.Module) -> list[Any]:
    """What must be equal in two copies; tensors and modules by their number, so that what is shared shows."""
    numbers: dict[int, int] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, (torch.Tensor, nn.Module)):
            number = numbers.setdefault(id(value), len(numbers))
            rest = (value.shape, value.dtype, value.requires_grad) if isinstance(value, torch.Tensor) else ()
            return (type(value), number, *rest)
        if isinstance(value, dict):
            return [type(value), *((key, plain(item)) for key, item in value.items())]
        if isinstance(value, (list, tuple)):
            return [type(value), *map(plain, value)]
        return value if type(value).__eq__ is not object.__eq__ else type(value)

    return [plain(vars(child)) for child in module.modules()]


def test_it_is_a_deep_copy_without_weights() -> None:
    net = Net()
    before = described(net)
    made = meta_copy(net, hooks=True)
    assert described(made) == described(copy.deepcopy(net))
    assert all(t.device.type == "meta" for t in (*made.parameters(), *made.buffers()))
    assert made.table is made.same
    assert made.table is not net.table
    assert made.table["sizes"][1][1] is not net.table["sizes"][1][1]
    assert made.table["outer"] == [made]
    assert made.own.copied
    assert (made.kept.written, made.kept.read) == (True, True)
    assert described(net) == before


@pytest.mark.parametrize("hooks", [True, False])
def test_hooks_come_along_on_request(hooks: bool) -> None:
    assert len(meta_copy(Net(), hooks=hooks)._forward_hooks) == hooks


def test_what_is_shared_is_not_copied() -> None:
    net, instead = Net(), nn.Identity()
    made = meta_copy(net, shared={net.body: instead})
    assert made.body is instead
    assert made.again is not net.again
