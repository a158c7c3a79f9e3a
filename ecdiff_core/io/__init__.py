"""Files, YAML, video and the console."""
