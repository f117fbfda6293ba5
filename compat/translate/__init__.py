"""Wire structs to engine models and back, pure."""
