"""Handlers, a flat route table a noun."""
