"""What the reference run foretells of configs: errors, qualities, and where to place real steps."""
