"""Two models that share a generation: families, loading, compatibility, handoff, memory, devices."""
