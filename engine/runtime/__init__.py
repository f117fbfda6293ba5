"""An OCI runtime: launcher, monitor and init."""
