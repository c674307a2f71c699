"""One rule per operation: what a function or tensor method says about the sizes it meets.

``RULES`` maps an operation's name to its rule. A function of torch, a method of Tensor and the in-place form of either
share a name; functions of other packages are listed with theirs. A rule takes the context and the operation's own
arguments, tensors as :class:`~cnnscale.shapes.Sym` and sizes as polynomials. To teach cnnscale an operation, add its
name to a list in the module of its topic, or write there the few lines that relate its shapes.
"""

from . import cutting  # its rules go into the table
from .arguments import channel_axis, replaced
from .convolutions import convolution, depthwise, transposed
from .elementwise import elementwise
from .norms import channel_norm, prelu
from .products import linear
from .reshaping import channel_shuffle, flatten
from .sizes import integers
from .table import RULES, operation_name, unknown
from .windows import adaptive_pool, interpolate, pixel_shuffle, pixel_unshuffle, pool, pool_output

__all__ = [
    "RULES",
    "adaptive_pool",
    "channel_axis",
    "channel_norm",
    "channel_shuffle",
    "convolution",
    "cutting",
    "depthwise",
    "elementwise",
    "flatten",
    "integers",
    "interpolate",
    "linear",
    "operation_name",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pool",
    "pool_output",
    "prelu",
    "replaced",
    "transposed",
    "unknown",
]
