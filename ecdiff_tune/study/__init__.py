"""A study: its folder, its loop, what it writes, and how it is read back."""
