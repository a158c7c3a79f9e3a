"""One study on several processes."""
