"""The process that owns a container while it runs."""
