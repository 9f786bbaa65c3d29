"""Policies: one per file, each a pure function from an `Observation` to a `Decision`; `registry` lists them."""
