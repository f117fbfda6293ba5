"""Names of containers: the grammar, and names for those that nobody named."""

from __future__ import annotations

import re
import secrets

from engine.errors import InvalidParameter

_GRAMMAR = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = (
    "able airy amber ample apt arctic ardent azure balmy bold brave breezy bright brisk calm "
    "candid careful civil clever coastal copper cordial cosy crisp curious daring deft eager "
    "early earnest even fair fleet fluent frank fresh frosty gentle glad golden grand hale handy "
    "hardy hearty honest humble jolly keen kind lasting lively loyal lucid lunar mellow merry "
    "mild modest neat nimble noble northern open patient placid plucky polite prompt proud quick "
    "quiet rapid ready robust rosy sandy serene sharp silver sincere snug solid southern spry "
    "steady sturdy sunny swift tidal tidy tranquil trusty upbeat vivid warm western windy witty"
)

_NOUNS = (
    "anchor ballast barge beacon berth bollard bosun bow breakwater brig buoy cabin canal capstan "
    "captain cargo caravel channel chart clipper coaster coble compass coracle cove crane current "
    "cutter davit dinghy dock dolphin dory draught estuary fairway fender ferry fleet foghorn "
    "freighter galley gangway garboard gull halyard harbour hatch hawser helm hull inlet jetty "
    "kayak keel ketch lagoon landing launch lighter lighthouse lock log longboat lugger mariner "
    "mast mole mooring narrows oar outrigger pelican pennant pier pilot pinnace piling port prow "
    "punt quay reef rigging rudder sail schooner sextant shoal skiff skipper sloop sounding spar "
    "stern strait tanker tern tide tiller trawler tug vessel voyage wake wharf winch yawl"
)


_ADJECTIVE, _NOUN = _ADJECTIVES.split(), _NOUNS.split()


class InvalidContainerName(InvalidParameter):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
        self.name = name


def parse(text: str) -> str:
    """The name without its optional leading slash; raises InvalidContainerName."""
    name = text.removeprefix("/")
    if not _GRAMMAR.fullmatch(name):
        raise InvalidContainerName(text)
    return name


def generate(attempt: int = 0) -> str:
    """A random `adjective_noun`; from the second attempt on with a digit behind it."""
    name = f"{secrets.choice(_ADJECTIVE)}_{secrets.choice(_NOUN)}"
    return f"{name}{secrets.randbelow(10 ** min(attempt, 9))}" if attempt else name
