"""Cells on clusters: templates to copy."""
