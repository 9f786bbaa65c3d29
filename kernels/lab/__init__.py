"""The laboratory: what attention methods cost and what they hold to, measured on this machine."""

from __future__ import annotations

from kernels.lab.choosing import Candidate, Choice, fastest
from kernels.lab.kinetics import keep_fits_in

__all__ = ["Candidate", "Choice", "fastest", "keep_fits_in"]
