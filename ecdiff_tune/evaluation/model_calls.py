"""What models' work is counted in, a prompt at a time; the evaluator, which counts, knows of no study."""

KINDS = ("cloud", "edge", "decode")
"""Calls of the cloud and of the edge model with guidance, and decodes."""
Calls = tuple[int, int]
"""Of the cloud and of the edge."""
