"""The wire to image registries."""
