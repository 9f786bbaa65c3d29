"""Attention that is read out, calibrated, contrasted, blended or lent: changes of the weights that need no training."""
