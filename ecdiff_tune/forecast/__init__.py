"""What the reference run predicts of configs: errors, qualities, and where to place real steps."""
