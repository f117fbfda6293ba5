"""Volumes, between the API's shapes and the engine's model. Pure."""
