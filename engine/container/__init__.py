"""Containers: their state, life, streams and observation."""
