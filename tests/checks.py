"""What the laws look at: the state of a model, its operations, and its cost counted a second time."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import numpy as np
import torch
from nets import NetSpec, nets
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import cnnscale

PHIS = (-1, 0.5, 1, 2, 3)
CAMPAIGN = os.environ.get("CNNSCALE_PROFILE") == "campaign"
DEFAULT_NETS, CAMPAIGN_NETS = 300, 10_000


def net_count(default: int) -> int:
    """How many nets a test looks at which looks at ``default`` of the 300."""
    return default * CAMPAIGN_NETS // DEFAULT_NETS if CAMPAIGN else default


def for_nets(count: int, check: Callable[..., None], *, shard: int = 0, **strategies: Any) -> int:
    """Call ``check(spec, **drawn)`` on so many random nets; shards see different ones. Returns how many were seen."""
    seen = 0

    def counted(spec: NetSpec, **drawn: Any) -> None:
        nonlocal seen
        seen += 1
        check(spec, **drawn)

    run = hypothesis.given(spec=nets(), **strategies)(counted)
    if not CAMPAIGN:
        run = hypothesis.seed(shard)(run)
    hypothesis.settings(max_examples=net_count(count))(run)()
    return seen


def scaled(model: nn.Module, *args: Any, **options: Any) -> tuple[nn.Module, bool]:
    """``cnnscale.scale`` and whether it warned about the growth; any other warning is an error."""
    return _watched(cnnscale.scale, model, *args, **options)


def planned(model: nn.Module, *args: Any, **options: Any) -> cnnscale.Plan:
    return _watched(cnnscale.plan, model, *args, **options)[0]


def _watched(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, bool]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*distutils", category=DeprecationWarning)  # thop
        warnings.simplefilter("always", cnnscale.GrowthWarning)
        result = function(*args, **options)
    return result, any(issubclass(w.category, cnnscale.GrowthWarning) for w in caught)


# The state of a model, and of the process.


def digest(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    data = b"" if tensor.is_meta else tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, hashlib.sha256(data).hexdigest()


def tensor_state(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    return id(tensor), tensor._version, tensor.requires_grad, digest(tensor), id(tensor.grad), digest(tensor.grad)


INTERNAL = ("_parameters", "_buffers", "_modules")


def model_state(model: nn.Module) -> dict[str, Any]:
    """Everything that a library could leave behind in a model: values, grads, hooks, flags, attributes, identities."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        plain = {k: list(v) if "hooks" in k else repr(v) for k, v in vars(module).items() if k not in INTERNAL}
        tensors = {k: tensor_state(v) for k, v in {**module._parameters, **module._buffers}.items()}
        state[name] = (type(module), id(module), plain, tensors, list(module._modules))
    return state


def process_state() -> tuple[Any, ...]:
    """Random number generators and torch's global switches."""
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global one is what must not move
    return (
        digest(torch.get_rng_state()),
        hash(random.getstate()),
        numpy_state[1].tobytes(),
        numpy_state[2:],
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.empty(0).device,
        warnings.filters[:],
    )


# What a model does, operation by operation.


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket).removeprefix("aten.").rstrip("_")  # torch.fx turns `x += y` into `x + y`
        if name == "convolution":
            self.calls.append((name, tuple(out.shape[2:])))
            self.activations += out.numel()
        elif name == "cat":
            self.calls.append((name, len(args[0])))
        elif name not in ("detach", "clone"):
            self.calls.append((name,))
        return out


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy without storage."""
    memo: dict[int, Any] = {}
    for tensor in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values():
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def record(model: nn.Module, size: tuple[int, ...], *modes: TorchDispatchMode) -> _Recorder:
    """Run one image through a copy of the model in eval mode, on the meta device."""
    probe, images, recorder = meta_copy(model).eval(), torch.empty(1, *size, device="meta"), _Recorder()
    with torch.no_grad(), ExitStack() as stack:
        for mode in (*modes, recorder):
            stack.enter_context(mode)
        probe(images)
    return recorder


def structure(model: nn.Module) -> list[tuple[Any, ...]]:
    """Names, classes, flags and geometry of all modules, and the names of their tensors: all but the widths."""
    shown = ("stride", "kernel_size", "padding", "dilation")
    return [
        (
            name,
            type(module),
            [
                (k, v)
                for k, v in sorted(vars(module).items())
                if (isinstance(v, bool) and k != "training") or k in shown
            ],
            [k for k, v in [*module._parameters.items(), *module._buffers.items()] if v is not None],
        )
        for name, module in model.named_modules(remove_duplicate=False)
    ]


def numbers(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Every public attribute of every module that is an integer, or holds integers in plain containers; not what
    describes weights that can be downloaded."""

    def plain(value: Any) -> bool:
        if type(value) in (list, tuple, dict):
            return all(map(plain, value.values() if type(value) is dict else value))
        return type(value) in (int, str, float, bool, type(None))

    def counts(value: Any) -> bool:
        return type(value) is int or (type(value) in (list, tuple, dict) and plain(value))

    return [
        (
            name,
            {
                k: v
                for k, v in vars(module).items()
                if not k.startswith(("_", "pretrained", "default_cfg")) and counts(v)
            },
        )
        for name, module in model.named_modules()
    ]


def count(model: nn.Module, size: tuple[int, ...]) -> tuple[int, int, int]:
    """MACs, params and activations of one image, counted without cnnscale."""
    counter = FlopCounterMode(display=False)
    activations = record(model, size, counter).activations
    return counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters()), activations


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_in(value)
    elif output is not None:
        for value in output:
            yield from tensors_in(value)


def train_step(model: nn.Module, size: tuple[int, ...], *, batch: int = 2) -> list[tuple[int, ...]]:
    """Forward and backward in training mode; the output shapes. The gradients are left on the parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        device = next(model.parameters()).device
        outputs = list(tensors_in(model.train()(torch.randn(batch, *size, device=device))))
        sum(output.float().square().mean() for output in outputs).backward()
    return [tuple(output.shape) for output in outputs]


def bad_gradients(model: nn.Module) -> list[str]:
    """Trainable parameters whose gradient is missing, of the wrong shape or not finite."""
    return [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.shape != p.shape or not (p.is_meta or p.grad.isfinite().all()))
    ]


def changed_numbers(baseline: nn.Module, scaled: nn.Module) -> float:
    """At least this part of the numbers in weights of 2 or more dimensions is in tensors that changed or were added."""
    before, after = (Counter(p.shape for p in net.parameters() if p.ndim >= 2) for net in (baseline, scaled))
    kept = sum(shape.numel() * times for shape, times in (before & after).items())
    return 1 - kept / sum(shape.numel() * times for shape, times in after.items())


def changed_bounds(baseline: nn.Module, scaled: nn.Module) -> tuple[float, float]:
    """Bounds of the part of the weights (2 or more dimensions) that changed shape or belong to a copy.

    Copies may be renumbered, so names do not tell which weight is which; numbers do. An unchanged weight has a partner
    of its shape in the baseline; and of the weights with a partner, only as many can be copies as there are more.
    """
    before, after = (Counter(p.shape for p in net.parameters() if p.ndim >= 2) for net in (baseline, scaled))
    total, partners = after.total(), (before & after).total()
    copies = max(0, total - before.total())
    return 1 - partners / total, 1 - max(0, partners - copies) / total
