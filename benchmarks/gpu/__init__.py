"""Races that need a GPU; with --tiny they run on the CPU, to show that they work."""
