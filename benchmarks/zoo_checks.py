"""What can be wrong with a scaled network: each check names the problem, or returns nothing."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cnnscale

BATCH = 2


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (dict, list, tuple)):
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def output_shapes(model: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        output = frozen(model)(torch.empty(BATCH, *size, device="meta"))
    return [tuple(t.shape) for t in tensors(output)]


def macs(model: nn.Module, size: tuple[int, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        frozen(model)(torch.empty(1, *size, device="meta"))
    return int(counter.get_total_flops()) // 2


def trained(model: nn.Module, size: tuple[int, ...]) -> tuple[int, int]:
    """(parameters with a gradient after one step, trainable parameters)."""
    model = copy.deepcopy(model).train()
    sum(t.float().sum() for t in tensors(model(torch.empty(BATCH, *size, device="meta")))).backward()  # type: ignore[union-attr]
    params = [p for p in model.parameters() if p.requires_grad]
    return sum(p.grad is not None for p in params), len(params)


def wrong_output(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    """Every size stays, save that a map as large as the image is as large as the scaled image (segmentation)."""
    before, after = output_shapes(baseline, size), output_shapes(result, result.scaling.input_size)
    sides, new_sides = size[1:], result.scaling.input_size[1:]
    wanted = [(*s[:2], *new_sides) if s[2:] == sides else s for s in before]
    return "" if after == wanted else f"output {before} became {after}"


def wrong_macs(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    plan = result.scaling.plan
    before, after = macs(baseline, size), macs(result, plan.input_size)
    return (
        "" if (before, after) == (plan.before.macs, plan.after.macs) else f"MACs {before}, {after} are not the plan's"
    )


def wrong_widths(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    """Every layer of every group must be there with its new width."""
    before = dict(baseline.named_modules(remove_duplicate=False))
    there = Counter(w.shape[0] for m in result.modules() if isinstance(w := getattr(m, "weight", None), Tensor))
    for group in result.scaling.plan.widths:
        for layer in group.layers:
            weight = getattr(before.get(layer), "weight", None)
            if isinstance(weight, Tensor) and weight.shape[0] % group.before == 0:
                wanted = weight.shape[0] // group.before * group.after
                there[wanted] -= 1
                if there[wanted] < 0 and all(s.new_repeats >= s.repeats for s in result.scaling.plan.stages):
                    return f"no layer of {wanted} channels for {layer}"
    return ""


def wrong_training(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    before, after = trained(baseline, size), trained(result, result.scaling.input_size)
    if before[0] == before[1] and after[0] != after[1]:
        return f"{after[1] - after[0]} of {after[1]} parameters get no gradient"
    return ""


def wrong_names(baseline: nn.Module, result: Any, size: tuple[int, ...]) -> str:
    """The author's class, and in every module the author's names in the author's order."""
    if type(result) is not type(baseline) or result.scaling.form != "module":
        return "not its own class"
    orders = defaultdict(set)
    for module in baseline.modules():
        orders[type(module)].add((tuple(module._parameters), tuple(module._buffers), tuple(module._modules)))
    for path, module in result.named_modules():
        children = tuple(module._modules)
        if children and all(name.isdigit() for name in children):
            if children != tuple(map(str, range(len(children)))):
                return f"{path} numbers its children {children}"
        elif not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            order = (tuple(module._parameters), tuple(module._buffers), children)
            if type(module) in orders and order not in orders[type(module)]:
                return f"{path} has {order}"
    return ""


CHECKS = {
    "output": wrong_output,
    "MACs": wrong_macs,
    "widths": wrong_widths,
    "training": wrong_training,
    "names": wrong_names,
}


def wrong_identity(model: nn.Module, size: tuple[int, ...]) -> str:
    same = cnnscale.scale(model, 0, input_size=size)
    alike = list(same.state_dict()) == list(model.state_dict()) and type(same) is type(model)
    return "" if alike else "phi 0 is not the identity"
