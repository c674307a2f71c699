"""A scaled model in formats that do without cnnscale: a Python file, ONNX, and torch.export's own.

calls -> statements -> constructing, unifying -> layout -> sourcing -> python; formats. Whatever is written is loaded
again and run before it is kept: its outputs must be the model's.
"""

from .formats import onnx_file, torch_file
from .python import source_file

__all__ = ["onnx_file", "source_file", "torch_file"]
