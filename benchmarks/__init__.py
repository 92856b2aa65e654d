"""What is measured, one command each; results are written to `benchmarks/results/`."""
