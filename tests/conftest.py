"""Hypothesis profiles, and one thread: tests run side by side.

``CNNSCALE_PROFILE=default``    300 nets over all law tests, the same ones every time
``CNNSCALE_PROFILE=campaign``   10,000 nets, different ones every time (``make campaign``)
"""

from __future__ import annotations

import os

import hypothesis
import torch

PROFILE = os.environ.get("CNNSCALE_PROFILE", "default")

COMMON = {
    "deadline": None,
    "database": None,  # a failure prints the spec, which is all that is needed
    "suppress_health_check": list(hypothesis.HealthCheck),
}
hypothesis.settings.register_profile("default", derandomize=True, **COMMON)
hypothesis.settings.register_profile("campaign", derandomize=False, **COMMON)
hypothesis.settings.load_profile(PROFILE)

torch.set_num_threads(1)
