"""Recipes: what is made with this repository, and templates to copy."""
