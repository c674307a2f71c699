"""What belongs to a baseline's weights, grown as they were: averages over time, and an optimizer's state.

A state_dict of the baseline's shapes grows by the recipes of the weights (:mod:`cnnscale.recipes`), down to the shares
of each copy: of an average of the weights, the grown network computes what the average did. Momentum and squared
gradients go whole to each copy, since each copy of an input channel gets the gradient that the one had. What starts
anew, such as a block put in, has no state.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .comparison import tensors_of
from .errors import UsageError
from .recipes import Delta, Filled, Gathered, Recipe, Shares, made
from .records import Scaling
from .scaling import origins

__all__ = ["grow_state", "transfer_ema", "transfer_optimizer"]

Average = TypeVar("Average", bound=nn.Module)


def grow_state(state_dict: Mapping[str, Tensor], baseline: nn.Module, scaled: nn.Module) -> dict[str, Tensor]:
    """A state_dict of the baseline's shapes as one of ``scaled``'s, grown as the weights were.

    Args:
        state_dict: of ``baseline`` or of any network with its names and shapes: an average, an older checkpoint.
        baseline: what was scaled.
        scaled: what :func:`cnnscale.scale` made of it with ``weights="preserve"`` or ``"inherit"``. What its weights
            do not take from the baseline's, the result takes from ``scaled``.

    Raises:
        UsageError: names or shapes are not the baseline's, or ``scaled`` was not made by cnnscale.
        PlanError: ``scaled`` was made of a network of other shapes.
    """
    growth = _Growth.of(baseline, scaled)
    _check_names(state_dict, baseline)
    shares: Shares = "uneven" if growth.exact else "first"
    return {name: growth.grown(name, state_dict, value, shares) for name, value in scaled.state_dict().items()}


def transfer_ema(average: Average, baseline: nn.Module, scaled: nn.Module) -> Average:
    """An average of the baseline's weights as one of ``scaled``'s; ``average`` is left alone.

    Args:
        average: a network of the baseline's names, or what holds one as ``.module``
            (:class:`torch.optim.swa_utils.AveragedModel`, timm's ``ModelEmaV3``); the result is of the same kind.
        baseline: what was scaled.
        scaled: what :func:`cnnscale.scale` made of it.

    Raises:
        UsageError: there are no weights of the baseline's names and shapes.
    """
    inner = getattr(average, "module", average)
    net = average if set(average.state_dict()) == set(baseline.state_dict()) else inner
    grown = copy.deepcopy(scaled)
    grown.load_state_dict(grow_state(net.state_dict(), baseline, scaled))
    grown.train(net.training)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    if len(frozen) == sum(1 for _ in net.parameters()):
        grown.requires_grad_(False)
    return copy.deepcopy(average, {id(net): grown})


def transfer_optimizer(optimizer: Optimizer, baseline: nn.Module, scaled: nn.Module) -> Optimizer:
    """A new optimizer of the same kind over the parameters of ``scaled``; ``optimizer`` is left alone.

    Groups and their options are kept: a parameter is in the group of the one that it was made of, or copied from, and
    in none where that is in none. State of the parameter's shape grows as the parameter did, numbers such as ``step``
    are kept. Schedulers have to be made anew for the new optimizer.

    Raises:
        UsageError: the optimizer holds other parameters than the baseline's, or state that is neither a number nor of
            its parameter's shape (a factored or flattened one).
    """
    growth = _Growth.of(baseline, scaled)
    groups, places = _groups(optimizer, baseline)
    state: dict[Tensor, dict[str, Any]] = {}
    for name, parameter in scaled.named_parameters():
        own = growth.parameter(name)
        if own is None or id(own) not in places:
            continue
        groups[places[id(own)]]["params"].append(parameter)
        grown = _StateOf(growth, name, own, parameter).grown(optimizer.state.get(own, {}))
        if grown:
            state[parameter] = grown
    result = _like(optimizer, [group for group in groups if group["params"]])
    result.state.update(state)
    return result


@dataclass(frozen=True)
class _Growth:
    """How the tensors of a scaled network came from those of its baseline."""

    prefix: str
    """Of the names within the part that was scaled; outside, everything is the baseline's."""
    old: dict[str, Tensor]
    new: dict[str, Tensor]
    recipes: dict[str, Recipe]
    sources: dict[str, str]
    shared: dict[int, str]
    """id of a tensor of the scaled network -> its name among the recipes."""
    exact: bool
    """Whether copies share the weights of what they are copies of."""

    @classmethod
    def of(cls, baseline: nn.Module, scaled: nn.Module) -> _Growth:
        record = getattr(scaled, "scaling", None)
        if not isinstance(record, Scaling):
            raise UsageError(
                "growing state needs a network made by cnnscale.scale or apply (it has no .scaling record)"
            )
        recipes, sources = origins(baseline, record.plan)
        prefix = f"{record.plan.options.submodule}." if record.plan.options.submodule else ""
        old, new = tensors_of(baseline), tensors_of(scaled)
        shared = {id(new[prefix + name]): name for name in recipes}
        return cls(prefix, old, new, recipes, sources, shared, record.preservation is not None)

    def parameter(self, name: str) -> Tensor | None:
        """The baseline's parameter that a parameter stands for."""
        recipe = self.recipe(name)
        if not name.startswith(self.prefix):
            return self.old.get(name)
        known = None if recipe is None or isinstance(recipe, (Filled, Delta)) else recipe.source
        source = known or self.sources.get(name.removeprefix(self.prefix))
        return None if source is None else self.old.get(self.prefix + source)

    def recipe(self, name: str) -> Recipe | None:
        if not name.startswith(self.prefix):
            return Gathered(name)
        return self.recipes.get(self.shared.get(id(self.new[name]), ""))

    def grown(self, name: str, given: Mapping[str, Tensor], new: Tensor, shares: Shares) -> Tensor:
        """What the recipe of the tensor ``name`` makes of those that are given, in the place of ``new``."""
        recipe = self.recipe(name)
        if recipe is None:
            return new.clone()
        if isinstance(recipe, (Filled, Delta)):
            return made(recipe, None, new, name, shares).to(new.dtype)
        if not name.startswith(self.prefix):
            return given[name].clone()
        old = given[self.prefix + recipe.source]
        return made(recipe, old, new.to(old.device), self.shared[id(self.new[name])], shares).to(old.dtype, copy=True)


@dataclass(frozen=True)
class _StateOf:
    """An optimizer's state of one parameter."""

    growth: _Growth
    name: str
    old: Tensor
    new: Tensor

    def grown(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing, for a parameter that starts anew."""
        recipe = self.growth.recipe(self.name)
        if recipe is None or isinstance(recipe, (Filled, Delta)):
            return {}
        return {key: self._value(key, value) for key, value in state.items()}

    def _value(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.deepcopy(value)
        if value.shape == self.old.shape:
            zeros = torch.zeros_like(self.new, dtype=value.dtype)
            given = {name: value for name, tensor in self.growth.old.items() if tensor is self.old}
            return self.growth.grown(self.name, given, zeros, "whole" if self.growth.exact else "first")
        if value.numel() == 1:
            return value.clone()
        raise UsageError(
            f"the optimizer keeps {key!r} of shape {tuple(value.shape)} for {self.name}, whose baseline has the shape "
            f"{tuple(self.old.shape)}: only state of the parameter's shape, and single numbers, can be grown; start a "
            "new optimizer"
        )


def _groups(optimizer: Optimizer, baseline: nn.Module) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """(The optimizer's groups without parameters, id of a parameter -> its group)."""
    known = {id(parameter) for parameter in baseline.parameters()}
    groups, places = [], {}
    for index, group in enumerate(optimizer.param_groups):
        groups.append({**{key: copy.deepcopy(v) for key, v in group.items() if key != "params"}, "params": []})
        groups[-1].pop("param_names", None)
        for parameter in group["params"]:
            if id(parameter) not in known:
                raise UsageError(
                    f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not the baseline's; "
                    "pass the network that the optimizer was made for"
                )
            places[id(parameter)] = index
    return groups, places


def _like(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """A new optimizer of the same class and options.

    Raises:
        UsageError: its class cannot be called so.
    """
    cls = type(optimizer)
    taken = inspect.signature(cls).parameters
    options = {key: value for key, value in optimizer.defaults.items() if key in taken}
    try:
        return cls(groups, **options)
    except Exception as error:  # any optimizer's constructor
        raise UsageError(f"{cls.__name__} cannot be made anew from its groups and defaults: {error}") from error


def _check_names(state_dict: Mapping[str, Tensor], baseline: nn.Module) -> None:
    wanted = baseline.state_dict()
    odd = sorted(set(wanted) ^ set(state_dict))
    if odd:
        what = "lacks" if odd[0] in wanted else "has names that are none of"
        raise UsageError(f"the state_dict {what} the {type(baseline).__name__}'s: {', '.join(odd[:3])}")
    for name, tensor in wanted.items():
        if isinstance(tensor, Tensor) and state_dict[name].shape != tensor.shape:
            raise UsageError(
                f"{name} has the shape {tuple(state_dict[name].shape)} in the state_dict and {tuple(tensor.shape)} in "
                f"the {type(baseline).__name__}"
            )
