"""The data model: the objective, what is known, what was seen, what was decided (frozen values, no behaviour)."""
