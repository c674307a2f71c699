"""Hypothesis strategies over :class:`NetSpec`. The first choice everywhere is the simplest, for shrinking."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from .layers import ACTIVATIONS, NORMS
from .spec import COMPOSITES, NetSpec, StageSpec
from .stages import CONTAINERS, HandStage

WIDTHS = (12, 6, 10, 16, 20, 23, 24, 33, 40)
STEM_WIDTHS = (16, 8, 10, 12, 23)
SHORTCUTS = ("project", "identity", "use_res", "shape")
SIZES = ((3, 32, 32), (3, 40, 40), (3, 48, 32), (1, 36, 36), (4, 32, 56), (3, 64, 64))


GROUPS = (1, 2, 3, 4)
SQUEEZES = (0, 4, 2, 8, 16)
KERNELS = (3, 5)
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "plain": {"kernel": KERNELS},
    "basic": {"shortcut": SHORTCUTS, "se": SQUEEZES, "kernel": KERNELS},
    "bottleneck": {"shortcut": SHORTCUTS, "ratio": (4, 2), "groups": GROUPS, "se": SQUEEZES, "kernel": KERNELS},
    "inverted": {"shortcut": SHORTCUTS, "ratio": (4, 1, 2, 3, 6), "se": SQUEEZES, "kernel": KERNELS},
    "separable": {"kernel": KERNELS},
    "preact": {"shortcut": SHORTCUTS},
    "grouped": {"groups": GROUPS, "kernel": KERNELS},
    "concat": {},
    "split": {"groups": (1, 2), "kernel": KERNELS, "cut": ("chunk", "split", "sizes", "slice")},
    "layer_scale": {"ratio": (4, 1, 2, 3, 6), "kernel": (7, 3)},
    "dense_dict": {"growth": (8, 4, 12)},
    "dense_list": {"growth": (8, 4, 12)},
    "csp": {"shortcut": SHORTCUTS, "se": SQUEEZES},
    "gather": {"shortcut": SHORTCUTS},
}
"""kind -> the fields of its spec that vary."""


@st.composite
def stage_specs(draw: st.DrawFn, cin: int, stride: int) -> StageSpec:
    """One stage, which begins where the stride or the width changes."""
    kind = draw(st.sampled_from(tuple(OPTIONS)))
    options = {field: draw(st.sampled_from(choices)) for field, choices in OPTIONS[kind].items()}
    width, repeats = draw(st.sampled_from(WIDTHS)), draw(st.integers(1, 4))
    step = {"grouped": options.get("groups", 1), "split": 2, "csp": 2, "gather": 2}.get(kind, 1)
    width = -(-width // step) * step  # what divides the width of this kind
    if stride == 1 and width == cin:
        width += 2 * step
    if kind in ("split", "grouped", *COMPOSITES):
        repeats = max(2, repeats)  # a lone one does not show what its sibling does, or what it is that repeats
    return StageSpec(kind=kind, width=width, repeats=repeats, stride=stride, **options)


@st.composite
def nets(draw: st.DrawFn) -> NetSpec:
    """A staged CNN of one to four stages."""
    size = draw(st.sampled_from(SIZES))
    stem = draw(st.sampled_from(("conv", "strided", "pooled", "patch", "blurred", "none")))
    stem_width = draw(st.sampled_from(STEM_WIDTHS))
    container = draw(st.sampled_from(CONTAINERS))
    count = draw(st.integers(1, 3 if container == "hand_flat" else 4))
    cin, stages = (size[0] if stem == "none" else stem_width), []
    strides_left = {"pooled": 2, "patch": 2}.get(stem, 3)
    for i in range(count):
        stride = 2 if strides_left and draw(st.sampled_from((2, 2, 1) if i else (1, 2))) == 2 else 1
        strides_left -= stride - 1
        stage = draw(stage_specs(cin, stride))
        stages.append(stage)
        cin = stage.width
    if container == "hand_flat" and sum(stage.unit_count for stage in stages) > HandStage.LIMIT:
        container = "hand"
    style = {
        "norm": draw(st.sampled_from(NORMS)),
        "act": draw(st.sampled_from(ACTIVATIONS)),
        "conv": draw(st.sampled_from(("conv", "conv", "conv", "standardised"))),
    }
    forked = draw(st.sampled_from(("", "", "", "fuse", "aux"))) if count > 1 else ""
    dropout = draw(st.sampled_from((0.0, 0.2)))
    return NetSpec(
        stages=tuple(stages),
        size=size,
        stem=stem,
        stem_width=stem_width,
        container=container,
        head=draw(st.sampled_from(("gap", "mean", "view", "conv", "hidden", "grid", "grid_pool"))),
        classes=draw(st.sampled_from((10, 7, 13))),
        dropout=dropout,
        functional_dropout=bool(dropout) and draw(st.booleans()),
        drop_path=draw(st.sampled_from((0.0, 0.0, 0.2))),
        extra=draw(st.sampled_from(("", "", "", "twice", "tied"))),
        fuse=forked == "fuse",
        aux=forked == "aux",
        **style,
    )
