"""Families whose members their authors published one by one, as data.

They are tables, not powers of a formula. EfficientNet's phi is a label: with its own 1.2, 1.1 and 1.15, phi 1 would be
depth 1.2 and width 1.1, which is B2, while B1 is depth 1.1 and width 1.0; and B7 has 97.8 times the MACs of B0, not
2^7 = 128. What :func:`cnnscale.scale` gives for phi is the law; what a table says is given by its multipliers:

    b4 = cnnscale.published("efficientnet_b4")
    cnnscale.scale(efficientnet_b0(), depth=b4.depth, width=b4.width, image_size=b4.image_size)
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .coefficients import Multipliers
from .errors import UsageError

__all__ = ["PUBLISHED", "Published", "published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One member of a published family, relative to the family's baseline."""

    width: float
    depth: float
    image_size: int
    """Side of the image, in pixels."""
    dropout: float | None
    """Rate before the classifier; None where the publication gives none."""
    baseline: str
    """The member that the multipliers refer to."""
    source: str
    """Where the numbers stand."""

    @property
    def multipliers(self) -> Multipliers:
        """Depth, width, and resolution relative to the baseline's image."""
        return Multipliers(
            depth=self.depth, width=self.width, resolution=self.image_size / PUBLISHED[self.baseline].image_size
        )


def _family(baseline: str, source: str, **members: tuple[float, float, int, float | None]) -> dict[str, Published]:
    """Members as (width, depth, side, dropout)."""
    return {
        name: Published(width=width, depth=depth, image_size=side, dropout=dropout, baseline=baseline, source=source)
        for name, (width, depth, side, dropout) in members.items()
    }


PUBLISHED: Final = MappingProxyType(
    {
        **_family(
            "efficientnet_b0",
            "tensorflow/tpu efficientnet_builder.py, efficientnet_params",
            efficientnet_b0=(1.0, 1.0, 224, 0.2),
            efficientnet_b1=(1.0, 1.1, 240, 0.2),
            efficientnet_b2=(1.1, 1.2, 260, 0.3),
            efficientnet_b3=(1.2, 1.4, 300, 0.3),
            efficientnet_b4=(1.4, 1.8, 380, 0.4),
            efficientnet_b5=(1.6, 2.2, 456, 0.4),
            efficientnet_b6=(1.8, 2.6, 528, 0.5),
            efficientnet_b7=(2.0, 3.1, 600, 0.5),
            efficientnet_b8=(2.2, 3.6, 672, 0.5),
            efficientnet_l2=(4.3, 5.3, 800, 0.5),
        ),
        **_family(
            "efficientnet_lite0",
            "tensorflow/tpu efficientnet lite/efficientnet_lite_builder.py, efficientnet_lite_params",
            efficientnet_lite0=(1.0, 1.0, 224, 0.2),
            efficientnet_lite1=(1.0, 1.1, 240, 0.2),
            efficientnet_lite2=(1.1, 1.2, 260, 0.3),
            efficientnet_lite3=(1.2, 1.4, 280, 0.3),
            efficientnet_lite4=(1.4, 1.8, 300, 0.3),
        ),
        **_family(
            "efficientnetv2_b0",
            "google/automl efficientnetv2/effnetv2_configs.py, efficientnetv2_params (evaluation size)",
            efficientnetv2_b0=(1.0, 1.0, 224, 0.2),
            efficientnetv2_b1=(1.0, 1.1, 240, 0.2),
            efficientnetv2_b2=(1.1, 1.2, 260, 0.3),
            efficientnetv2_b3=(1.2, 1.4, 300, 0.3),
        ),
        **_family(
            "efficientnet_b0",
            "arXiv 2010.14819, table of the family",
            tinynet_a=(1.0, 1.2, 192, None),
            tinynet_b=(0.75, 1.1, 188, None),
            tinynet_c=(0.54, 0.85, 184, None),
            tinynet_d=(0.54, 0.695, 152, None),
            tinynet_e=(0.51, 0.6, 106, None),
        ),
    }
)
"""Name -> member."""


def published(name: str) -> Published:
    """The member of a published family that ``name`` names: width, depth, image size and dropout.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return PUBLISHED[name]
    except KeyError:
        near = difflib.get_close_matches(name, PUBLISHED, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(PUBLISHED)}"
        raise UsageError(f"no published network is called {name!r}{hint}") from None
