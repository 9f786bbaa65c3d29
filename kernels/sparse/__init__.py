"""Mechanisms that choose the keys of a query from the data, or from the parts that the data is made of."""
