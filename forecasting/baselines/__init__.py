"""Baselines behind the one forecaster interface: every claim about HARMONY's forecaster is made against these."""
