"""What studies go by: calibration prompts, the paper's own configs, the Hydra configs."""
