"""Hypothesis profiles, and one thread: tests run side by side.

``CNNSCALE_PROFILE=default``    300 nets over all law tests, the same ones every time
``CNNSCALE_PROFILE=shrink``     the same, and a failing net is made as small as it goes (minutes each)
``CNNSCALE_PROFILE=campaign``   10,000 nets, different ones every time
"""

from __future__ import annotations

import os

import hypothesis
import torch
from hypothesis import Phase

COMMON = {
    "deadline": None,
    "database": None,  # a failure prints the spec, which is all that is needed
    "suppress_health_check": list(hypothesis.HealthCheck),
    "report_multiple_bugs": False,
}
AS_FOUND = (Phase.explicit, Phase.generate)

hypothesis.settings.register_profile("default", derandomize=True, phases=AS_FOUND, **COMMON)
hypothesis.settings.register_profile("shrink", derandomize=True, **COMMON)
hypothesis.settings.register_profile("campaign", derandomize=False, phases=AS_FOUND, **COMMON)
hypothesis.settings.load_profile(os.environ.get("CNNSCALE_PROFILE", "default"))

torch.set_num_threads(1)
