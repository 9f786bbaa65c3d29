"""From the model's own types to every shape in which they are told: plain values, pydantic models, JSON and back.

`fields` reads a dataclass and `surface` makes plain values of it; neither imports more than numpy, so the model itself
may use them. `models` derives pydantic models (API, custom resource), `exact` keeps and restores every bit (journal).
"""
