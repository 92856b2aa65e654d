"""Releases: the adapter that passed, as a folder that servers load, and the pointers to it."""
