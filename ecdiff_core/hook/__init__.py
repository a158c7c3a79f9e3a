"""EC-Diff inside an unmodified diffusers pipeline: a hook on its denoiser."""

from ecdiff_core.hook.apply import apply_ecdiff, remove_ecdiff
from ecdiff_core.hook.ecdiff_hook import ECDiffHook
from ecdiff_core.hook.tuned import apply_tuned, remove_tuned

__all__ = ["ECDiffHook", "apply_ecdiff", "apply_tuned", "remove_ecdiff", "remove_tuned"]
