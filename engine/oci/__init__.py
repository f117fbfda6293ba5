"""Documents and grammars of the OCI specifications, pure."""
