"""Reports: records in, text out; none of them needs torch."""
