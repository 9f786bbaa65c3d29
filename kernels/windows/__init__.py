"""Static sparse attention: each mechanism is a rule for the block-sparse engine."""
