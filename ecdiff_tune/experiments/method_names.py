"""The names of methods, in the order of the tables."""

from ecdiff_core.methods import METHODS as ACCELERATIONS

METHODS = (
    "cloud",
    "edge",
    "hybrid_10",
    "hybrid_25",
    "paper",
    "tuned",
    "residual",
    "residual_thinned",
    "reuse",
    "secant",
    "schedule",
    "fewer_own",
    "fewer_ddim",
    "fewer_dpm",
    *ACCELERATIONS,
)
