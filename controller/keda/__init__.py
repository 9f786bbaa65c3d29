"""KEDA external scaler: our desired replica count as a metric that KEDA's HPA follows (see README.md)."""

from controller.keda.board import Board, Posting

__all__ = ["Board", "Posting"]
