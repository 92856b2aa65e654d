"""The engine: the only home of torch, in a process of its own."""
