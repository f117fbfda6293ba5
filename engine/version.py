"""The version of Wharf itself and the dockerd release whose behaviour it follows."""

VERSION = "0.1.0"
DOCKER_VERSION = "28.5.2"
SERVER_VERSION = f"{DOCKER_VERSION}+wharf{VERSION}"
