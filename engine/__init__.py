"""The runtime core: containers, images, networks and volumes, without any word of HTTP."""
