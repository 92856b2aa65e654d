"""A first suite: sample rows, what the user's rows look like, and the text of the files."""
