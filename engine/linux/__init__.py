"""Kernel verbs: ints, paths and descriptors in, OSError out, no policy."""
