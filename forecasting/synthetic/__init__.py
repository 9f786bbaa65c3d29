"""Synthetic services to learn from: seeded panels of demand, resources and system detail, as many as are wanted.

    covariances -> processes --.
    seasons, spikes, regimes ---+-> demand --> resources --> system detail --> readings lost

`processes` samples Gaussian processes over composed kernels, `curves` draws what demand is made of, `services` composes
services and says what it drew.
"""

from forecasting.synthetic.services import FAMILIES, Story, SyntheticService, synthetic_service, synthetic_services

__all__ = ["FAMILIES", "Story", "SyntheticService", "synthetic_service", "synthetic_services"]
