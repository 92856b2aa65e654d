"""What each side of a race runs in a process of its own: ours, TRL, lm-evaluation-harness."""
