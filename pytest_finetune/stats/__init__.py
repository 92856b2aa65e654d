"""The gate's statistics: numbers in, numbers out. Differences are after - before, row by row; levels are one-sided."""
