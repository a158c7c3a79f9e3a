"""What is raised of settings."""

from ecdiff_core.errors import ECDiffError


class SettingsError(ECDiffError):
    """A setting is out of range, or settings contradict each other."""
