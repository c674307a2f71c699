"""Random staged CNNs for the law tests: ``nets()`` draws a :class:`NetSpec`, ``NetSpec.build()`` makes the module."""

from .spec import NetSpec, StageSpec, output_layers
from .strategy import nets

__all__ = ["NetSpec", "StageSpec", "nets", "output_layers"]
