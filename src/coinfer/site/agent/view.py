"""What a node knows of the site's edge servers, with the age of each piece of knowledge."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from coinfer.site.messages import ServerInfo, View


class ServerView(NamedTuple):
    """What the controller said of an edge server."""

    info: ServerInfo
    backlog_s: float = 0.0
    queued: int = 0
    room: int = 0
    at_s: float = float("-inf")
    """When this was so, on the node's clock; minus infinity if the server has not reported."""

    def works(self) -> dict[str, float]:
        """Return how long the server takes, by the key of the work."""
        return {work.work: work.service_s for work in self.info.works}


def after_view(servers: Mapping[str, ServerView], view: View, now_s: float) -> dict[str, ServerView]:
    """Return what is known after the controller sent a view.

    Args:
        servers: by name.
        view: of the controller.
        now_s: on the node's clock.
    """
    infos = {name: known.info for name, known in servers.items()} | {info.name: info for info in view.servers}
    if view.names is not None:
        infos = {name: infos[name] for name in view.names if name in infos}
    found = {name: servers.get(name, ServerView(info))._replace(info=info) for name, info in infos.items()}
    for load in view.loads:
        at_s = now_s - load.age_s
        if load.name in found and at_s > found[load.name].at_s:
            found[load.name] = ServerView(infos[load.name], load.backlog_s, load.queued, load.room, at_s)
    return found


def work_key(model: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    """Return the name that a kind of work has in reports.

    Args:
        model: name of the network.
        inputs: names of the tensors that are given.
        outputs: names of the tensors to compute; empty for the network's own.
    """
    text = "\0".join((model, *inputs, "", *outputs))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
