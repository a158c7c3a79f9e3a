"""Import this before anything that imports diffusers: the terminal is left to the script's own lines."""

from ecdiff_core.io.console import quiet_libraries

quiet_libraries()
