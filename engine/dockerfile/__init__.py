"""The grammar of Dockerfiles, which images' changes are written in too. Pure."""
