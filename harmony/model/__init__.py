"""The data model: what was promised, what is known, what was seen, what was decided (frozen values, no behaviour)."""
