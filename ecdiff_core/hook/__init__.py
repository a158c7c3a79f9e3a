"""EC-Diff inside an unmodified diffusers pipeline: a hook on its denoiser."""

from ecdiff_core.hook.apply import ECDiffHook, apply_ecdiff, remove_ecdiff

__all__ = ["ECDiffHook", "apply_ecdiff", "remove_ecdiff"]
