"""Shadow evaluation: the candidate beside the primary on live traffic, and the verdict over both."""
