"""Module -> analysis: trace, find the stages, open the single-block ones, walk the equations.

The network analysed is the *extended* baseline: where a stage has a single block which changes its shape, a copy that
keeps it has been put behind (:mod:`cnnscale.opening`), so that every stage ends in a block that can be repeated as it
is. A plan that does not need such a copy drops it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .analysis import Analysis, Stage
from .concatenation import Concatenation, concatenations
from .copying import meta_copy
from .errors import CnnScaleError, ModelError
from .inference import Override, infer
from .inputs import InputSize
from .kernels import follow_kernels, kernel_rules
from .mixtures import divided
from .opening import Opening, openings
from .projections import projections
from .scales import follow_contractions
from .shapes import Context, Product
from .stages import Block, Site, find_stages, is_gathered
from .surgery import CONTAINERS, Edit, Origin, Projection, edit_blocks, project
from .tracing import Trace, trace

__all__ = ["analyse", "fingerprint"]


def analyse(model: nn.Module, input_size: InputSize, pin: Sequence[str] = (), *, deepen: bool = True) -> Analysis:
    """Analyse ``model`` for inputs of ``input_size``; the model is not touched.

    Where layers pinned by ``pin`` meet others, blocks get the projection that their class has elsewhere. Without
    ``deepen`` no stage is to get more blocks, and copies of those that change their shape are not made.

    Raises:
        ModelError, TraceError, UnsupportedOpError: the model does not run, trace, or contains an unknown operation.
    """
    lazy = next((name for name, t in _tensors(model) if is_lazy(t)), None)
    if lazy is not None:
        raise ModelError(
            f"{type(model).__name__} has lazy layers without sizes ({lazy!r}): run it once on a batch of its inputs, "
            "then scale it"
        )
    if not any(p.dim() > 2 for p in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has no convolution, so there is nothing that width, depth and resolution "
            "could scale together; cnnscale scales convolutional networks"
        )
    base = _Base(model, deepen=deepen)
    analysis = _with_copies(base, input_size)
    made = projections(analysis, pin) if pin else []
    return _with_copies(replace(base, projections=tuple(made)), input_size) if made else analysis


@dataclass(frozen=True)
class _Base:
    """The baseline, and what blocks get because of pinned widths."""

    model: nn.Module
    projections: tuple[Projection, ...] = ()
    deepen: bool = True

    def meta(self) -> nn.Module:
        module = meta_copy(self.model)
        project(module, self.projections)
        return module

    def sites(self, traced: Trace) -> list[Site]:
        return divided(traced, find_stages(traced), [projection.child.path for projection in self.projections])


def _with_copies(base: _Base, input_size: InputSize) -> Analysis:
    """The analysis with a copy behind the block of every stage that needs one."""
    traced = trace(base.meta(), input_size)
    sites = base.sites(traced)
    plain = _analysis(base, traced, sites)
    if not base.deepen or all(site.can_repeat for site in sites):
        return plain
    return _extended(base, plain, openings(plain))


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _extended(base: _Base, plain: Analysis, made: list[Opening]) -> Analysis:
    """The analysis with the openings put in, as far as the model's forward takes them: where not all of them work
    together, each is put beside those that do."""
    obstacles = {o.block.path: o.obstacle for o in made}
    usable = [o for o in made if o.modules]
    analysis = _with_openings(base, plain, usable, obstacles)
    if analysis is not None:
        return analysis
    fitting: list[Opening] = []
    for opening in usable:
        if _with_openings(base, plain, [*fitting, opening], obstacles) is not None:
            fitting.append(opening)
        else:
            obstacles[opening.block.path] = _MISFIT
    return _with_openings(base, plain, fitting, obstacles) or plain


_MISFIT = "a copy of its single block does not fit behind it"


def _with_openings(base: _Base, plain: Analysis, made: list[Opening], obstacles: dict[str, str]) -> Analysis | None:
    """None where the model does not run with these openings, or does not chain each behind its block."""
    module, origins = _opened(base, made)
    try:
        traced = trace(module, plain.input_size)
    except CnnScaleError:
        return None
    sites = base.sites(traced)
    added = {path for path, origin in origins.items() if origin.copy and origin.path in {o.block.path for o in made}}
    if not added <= {path for site in sites for path in site.template.modules}:
        return None
    if any(added.issuperset(path for block in site.blocks for path in block.modules) for site in sites):
        return None  # a copy that is a stage of its own repeats nothing
    analysis = _analysis(base, traced, sites, origins, obstacles)
    analysis.borrowed = tuple(child for opening in made for child in opening.borrowed)
    return analysis


def _opened(base: _Base, made: list[Opening]) -> tuple[nn.Module, dict[str, Origin]]:
    module = base.meta()
    edits = [Edit(o.block, (tuple(map(meta_copy, o.modules)),)) for o in made]
    return module, edit_blocks(module, edits)


def _analysis(
    base: _Base,
    traced: Trace,
    sites: list[Site],
    origins: dict[str, Origin] | None = None,
    obstacles: dict[str, str] | None = None,
) -> Analysis:
    """The equations of a traced model, whose modules come from ``origins`` in the baseline."""
    ctx = Context(traced.module)
    joined = concatenations(ctx, sites)
    overrides = _composed(joined.values())
    values = infer(ctx, traced, overrides)
    products = tuple(ctx.products)
    for concatenation in joined.values():
        concatenation.tie(ctx, values)
    _walk_train_mode(ctx, traced, overrides)
    ctx.settle()
    origins, obstacles = origins or {}, obstacles or {}
    stages = tuple(_stage(base, traced, site, joined.get(i), origins, obstacles) for i, site in enumerate(sites))
    analysis = Analysis(base.model, traced, ctx, stages, origins, values, traced.input_size, base.projections)
    for site in sites:
        _tie_ends(analysis, site)
    follow_contractions(ctx)
    follow_kernels(ctx, kernel_rules(ctx))
    ctx.equations.settle()
    analysis.eval_products = tuple(
        Product(p.kind, p.node, tuple(map(ctx.equations.resolve, p.factors))) for p in products
    )
    return analysis


def _stage(
    base: _Base,
    traced: Trace,
    site: Site,
    joined: Concatenation | None,
    origins: dict[str, Origin],
    obstacles: dict[str, str],
) -> Stage:
    made = sum(origins.get(block.path, Origin(block.path, 0)).copy for block in site.blocks)
    obstacle = ""
    if joined is not None:
        obstacle = joined.obstacle
    elif not site.can_repeat and base.deepen:
        path = site.template.path
        obstacle = obstacles.get(origins.get(path, Origin(path, 0)).path) or "its last block changes the shape"
    elif _takes_more(traced, site.template):
        obstacle = "its blocks are called one by one, with more than their input"
    elif _is_interrupted(traced, site.template):
        obstacle = "between it and the next of its list, forward does something else, behind which a copy would come"
    least = len(site.blocks) - made if joined is None and is_gathered(site.blocks) else 1
    return Stage(site, len(site.blocks) - made, joined, obstacle, least)


def _takes_more(traced: Trace, block: Block) -> bool:
    """Whether a Sequential of the block and a copy could not be called in its place."""
    in_container = isinstance(traced.modules[block.parent], CONTAINERS)
    return not in_container and any(
        call.path == block.path and len(call.args) + len(call.kwargs) > 1 for call in traced.calls
    )


def _is_interrupted(traced: Trace, block: Block) -> bool:
    """Whether a list holds more behind the block, and that does not read its output: a loop over the list, with more in
    it than calls, would call a copy in another place than right behind the block."""
    parent = traced.modules[block.parent]
    if type(parent) is not nn.ModuleList:
        return False
    names = list(parent._modules)
    later = names[names.index(block.modules[-1].rpartition(".")[2]) + 1 :]
    path = f"{block.parent}.{later[0]}" if later else ""
    reads = {
        *(a for c in traced.calls if c.path == path for n in traced.nodes[c.start : c.stop] for a in n.all_input_nodes),
        *(a for n in traced.nodes if n.op == "call_module" and n.target == path for a in n.all_input_nodes),
    }
    return bool(reads) and block.output not in reads


def _tie_ends(analysis: Analysis, site: Site) -> None:
    """A copy of the template reads what the template writes: from now on its two ends have one width."""
    if site.kind in ("chain", "gathered", "stack") and site.can_repeat:
        before, after = (analysis.channels(node) for node in (site.template.inputs[0], site.template.output))
        if before is not None and after is not None:
            analysis.ctx.equations.equate(before, after, f"the ends of {site.template.path}")


def _composed(joined: Iterable[Concatenation]) -> dict[str, Override]:
    """One override per node name, in the order of the stages."""
    overrides: dict[str, Override] = {}
    for concatenation in joined:
        for node, override in concatenation.overrides.items():
            earlier = overrides.get(node.name)
            overrides[node.name] = override if earlier is None else _after(earlier, override)
    return overrides


def _after(first: Override, second: Override) -> Override:
    return lambda value: second(first(value))


def _walk_train_mode(ctx: Context, traced: Trace, overrides: dict[str, Override]) -> None:
    """Train mode can take other paths (auxiliary heads): where eval mode leaves parameters unread, walk it too."""
    if any(name not in ctx.tensors for name, _ in traced.module.named_parameters()):
        infer(ctx, trace(traced.module, traced.input_size, train=True), overrides)
        traced.module.eval()
    unread = next((name for name, _ in traced.module.named_parameters() if name not in ctx.tensors), None)
    if unread is not None and traced.left_out:
        raise ModelError(
            f"parameter {unread!r} is not read, perhaps because the optional input {traced.left_out[0]!r} of forward "
            "is left out, so its widths could not follow the others; give its size too, "
            f'input_size={{..., "{traced.left_out[0]}": (C, H, W)}}'
        )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names and shapes of a model's parameters and buffers, and of its class."""
    lines = [f"{type(model).__module__}.{type(model).__qualname__}"]
    lines += [f"{name} {tuple(tensor.shape)}" for name, tensor in _tensors(model)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
