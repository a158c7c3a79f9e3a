"""What pictures are measured by."""
