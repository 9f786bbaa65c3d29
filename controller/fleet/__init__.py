"""Which services there are, who else scales their targets, and what was saved of them."""
