"""Cells: the parts of a gate that run on other machines, and the one verdict over all of them."""
