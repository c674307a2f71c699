"""Where a shortcut answers for an operation, torch gives the same shape, layout and dtype, or the same refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import scaled
from nets import NetSpec, StageSpec
from torch import nn
from torch.utils._pytree import tree_leaves
from twins import published

from cnnscale import ModelError, shortcuts, tracing
from cnnscale.measuring import run_once
from cnnscale.shortcuts import Shortcuts
from cnnscale.tracing import trace

RULES = {rule: [f for f, r in shortcuts._RULES.items() if r is rule] for rule in shortcuts._RULES.values()}
POINTWISE = RULES[shortcuts._pointwise]
BINARY = [*RULES[shortcuts._binary], *RULES[shortcuts._in_place]]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def answers(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """What torch says of a call, and what it says with shortcuts."""

    def said() -> Any:
        try:  # on copies, which an operation in place may change
            result = function(*(a.detach() if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
        except (IndexError, RuntimeError, ValueError) as error:
            return type(error)
        return result.shape, result.stride(), result.dtype, result.device

    plain = said()
    with Shortcuts():
        return [plain, said()]


@pytest.mark.parametrize("function", POINTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pointwise(function: Callable[..., Any], dtype: torch.dtype) -> None:
    plain, quick = answers(function, empty(2, 6, 5, 4, dtype=dtype), **_options(function))
    assert plain == quick
    assert plain[0] == (2, 6, 5, 4)


@pytest.mark.parametrize("function", [*POINTWISE, F.group_norm])
@pytest.mark.parametrize("image", [empty(2, 6, 5, 8)[..., ::2], empty(2, 5, 4, 6).permute(0, 3, 1, 2)])
def test_strided_images_come_out_as_torch_lays_them_out(function: Callable[..., Any], image: torch.Tensor) -> None:
    options = {"num_groups": 2} if function is F.group_norm else _options(function)
    plain, quick = answers(function, image, **options)
    assert plain == quick


def _options(function: Callable[..., Any]) -> dict[str, int]:
    return {"size": 3} if function is F.local_response_norm else {}


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize(
    "other",
    [
        *[empty(2, 6), empty(6), empty(2, 1), empty(1), empty(), empty(3, 2, 6), empty(1, 1, 2, 6), empty(3, 1, 6)],
        *[empty(2, 6, dtype=torch.float64), empty(6, 2).T, empty(5), empty(0), 2, 0.5],
    ],
    ids=str,
)
@pytest.mark.parametrize("image", [empty(2, 6), empty(1, 6), empty(12, 2).T[:, ::2]], ids=str)
def test_two_tensors(function: Callable[..., Any], image: torch.Tensor, other: Any) -> None:
    plain, quick = answers(function, image, other)
    assert plain == quick


@pytest.mark.parametrize("function", [*RULES[shortcuts._mean], *RULES[shortcuts._variance]])
@pytest.mark.parametrize("dim", [1, -1, (2, 3), (-2, -1), [0, 2], (), None, 4, (1, -3)], ids=str)
@pytest.mark.parametrize("keepdim", [True, False])
def test_means(function: Callable[..., Any], dim: Any, keepdim: bool) -> None:
    for image in (empty(2, 6, 5, 4), empty(2, 6, 5, 8)[..., ::2], empty(2, 5, 4, 6).permute(0, 3, 1, 2)):
        plain, quick = answers(function, image, dim, keepdim=keepdim)
        assert plain == quick


@pytest.mark.parametrize("side", [1, (1, 1), (2, 3), (None, 2), (1, 1, 1), 0], ids=str)
def test_adaptive_pools(side: Any) -> None:
    for image in (empty(2, 6, 5, 4), empty(6, 5, 4), empty(2, 5, 4, 6).permute(0, 3, 1, 2)):
        plain, quick = answers(F.adaptive_avg_pool2d, image, side)
        assert plain == quick


@pytest.mark.parametrize("dim", [0, 1, -1, 4])
@pytest.mark.parametrize(
    "other",
    [empty(2, 6, 5), empty(2, 3, 5), empty(4, 6, 5), empty(2, 5), empty(2, 6, 5).double(), empty(2, 6, 10)[..., ::2]],
)
def test_concatenations(dim: int, other: torch.Tensor) -> None:
    def together(*images: torch.Tensor) -> torch.Tensor:
        return torch.cat(images, dim)

    plain, quick = answers(together, empty(2, 6, 5), other, empty(2, 6, 5))
    assert plain == quick


@pytest.mark.parametrize("shape", [(2, 6), (6,), (2, 3, 6), (2, 4, 5, 6), (2, 5)])
@pytest.mark.parametrize("width", [7, 6])
def test_linear_layers(shape: tuple[int, ...], width: int) -> None:
    for image in (empty(*shape), empty(*shape, 2)[..., 0]):
        plain, quick = answers(F.linear, image, empty(7, 6), empty(width))
        assert plain == quick


@pytest.mark.parametrize("exponent", [2, 0.5, empty(2, 6), empty(3, 2, 6)], ids=str)
def test_powers(exponent: Any) -> None:
    for function in RULES[shortcuts._power]:
        plain, quick = answers(function, empty(2, 6), exponent)
        assert plain == quick


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integers_become_what_they_become(dtype: torch.dtype) -> None:
    plain, quick = answers(torch.div, empty(2, 6, dtype=dtype), 2)
    assert plain == quick
    assert plain[2] == torch.float32


@pytest.mark.parametrize("width", [6, 5])
@pytest.mark.parametrize("training", [True, False])
def test_norms_look_at_their_widths(width: int, training: bool) -> None:
    image, tensor = empty(2, 6, 4, 4), empty(width)
    calls = (
        (F.batch_norm, (image, tensor, tensor, tensor, tensor, training)),
        (F.batch_norm, (image, None, None, tensor, None, True)),
        (F.group_norm, (image, 2, tensor, tensor)),
        (F.instance_norm, (image, None, None, tensor, tensor)),
        (F.instance_norm, (image, tensor, tensor, tensor, tensor, training)),
        (F.group_norm, (image, 4)),
        (F.layer_norm, (image.permute(0, 2, 3, 1), (width,), tensor, tensor)),
        (F.layer_norm, (image.permute(0, 2, 3, 1), (6,), tensor, None)),
    )
    for function, args in calls:
        plain, quick = answers(function, *args)
        assert plain == quick, function


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 1, 1), (2, 6), (1, 6), (1, 6, 2)])
def test_norms_of_single_values_are_refused_as_torch_refuses_them(shape: tuple[int, ...]) -> None:
    calls = (
        (F.batch_norm, (None, None, None, None, True)),
        (F.instance_norm, ()),
        (F.group_norm, (6,)),
        (F.group_norm, (3,)),
    )
    for function, args in calls:
        plain, quick = answers(function, empty(*shape), *args)
        assert plain == quick, function


def test_every_rule_answers() -> None:
    """What is compared above is not torch with itself."""
    image, tensor = empty(2, 6, 4, 4), empty(6)
    arguments = {
        shortcuts._binary: (image, empty(6, 1, 1)),
        shortcuts._in_place: (image, image),
        shortcuts._power: (image, 2),
        shortcuts._mean: (image, (2, 3)),
        shortcuts._variance: (image, 1),
        shortcuts._cat: ([image, image], 1),
        shortcuts._adaptive_pool: (image, 1),
        shortcuts._linear: (empty(2, 3), empty(6, 3), tensor),
        shortcuts._batch_norm: (image, tensor, tensor),
        shortcuts._layer_norm: (image.permute(0, 2, 3, 1), (6,), tensor, tensor),
        shortcuts._group_norm: (image, 2, tensor),
        shortcuts._pointwise: (image,),
    }
    assert arguments.keys() == RULES.keys()
    assert all(rule(*args) is not None for rule, args in arguments.items())


def test_the_answer_is_not_the_input() -> None:
    image = empty(2, 6)
    with Shortcuts():
        F.relu(image).unsqueeze_(0)
    assert image.shape == (2, 6)


def test_real_tensors_are_computed() -> None:
    with Shortcuts():
        assert F.relu(torch.tensor([-1.0])).item() == 0


class Strided(nn.Module):
    """Takes every other pixel, and has a view of what a layer makes of them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.layer = layer
        self.head = nn.Linear(16 * 8 * 8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.conv(images)[:, :, ::2, ::2]).view(-1, 16 * 8 * 8))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.BatchNorm2d(16)], ids=lambda layer: type(layer).__name__)
def test_views_of_strided_images_trace(layer: nn.Module) -> None:
    result, _ = scaled(Strided(layer), width=1.5, input_size=(3, 16, 16))
    assert result.head.in_features == result.conv.out_channels * 8 * 8 > 16 * 8 * 8
    assert result(torch.randn(1, 3, 16, 16)).shape == (1, 10)


def seen(model: nn.Module, size: tuple[int, ...]) -> tuple[Any, ...]:
    """All that a trace and a measurement show of shapes and costs."""
    values = [
        [(node.op, str(node.target), shapes(node.meta.get("val"))) for node in trace(model, size, train=train).nodes]
        for train in (True, False)
    ]
    once = run_once(model, size)
    return values, shapes(once.outputs), once.cost, once.thop_macs


def shapes(value: Any) -> list[Any]:
    return [(t.shape, t.stride(), t.dtype) for t in tree_leaves(value) if isinstance(t, torch.Tensor)]


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return published(name)


NETS = {
    **{name: (lambda name=name: on_meta(name), (3, 64, 64)) for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5")},
    "vgg11_bn": (lambda: on_meta("vgg11_bn"), (3, 224, 224)),
    "dense": (lambda: NetSpec((StageSpec("dense_dict", 12, 2), StageSpec("gather", 20, 2))).build(device="meta"), None),
    "groups": (
        lambda: NetSpec((StageSpec("csp", 12, 2), StageSpec("bottleneck", 24, 1)), norm="gn").build(device="meta"),
        None,
    ),
    "permuted": (lambda: NetSpec((StageSpec("layer_scale", 20, 2),), norm="ln_permute").build(device="meta"), None),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_look_the_same_without_shortcuts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, size = NETS[name]
    model = build()
    size = size or NetSpec((StageSpec("plain", 8, 1),)).size
    quick = seen(model, size)
    monkeypatch.setattr(shortcuts, "_RULES", {})
    monkeypatch.setattr(tracing, "is_plain", lambda value: False)
    assert quick == seen(model, size)


def test_nets_that_do_not_run_fail_the_same_without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(7), nn.Conv2d(8, 8, 3))

    def refusal() -> str:
        with pytest.raises(ModelError) as caught:
            run_once(model, (3, 16, 16))
        return str(caught.value)

    quick = refusal()
    monkeypatch.setattr(shortcuts, "_RULES", {})
    assert quick == refusal()
