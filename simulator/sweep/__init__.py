"""Sweeps: many policies over many traces in parallel, compared at equal violation."""
