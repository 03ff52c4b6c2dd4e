"""What a node knows of the site's edge servers, with the age of each piece of knowledge."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from coinfer.site.messages import ServedName, ServerInfo, View
from coinfer.site.serving_messages import ServingLoad, ServingProfile


class ServerView(NamedTuple):
    """What the controller said of an edge server."""

    info: ServerInfo
    backlog_s: float = 0.0
    queued: int = 0
    room: int = 0
    at_s: float = float("-inf")
    """When this was so, on the node's clock; minus infinity if the server has not reported."""
    models: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Fingerprints of what it serves, by name: of a network, and of its bottleneck if it has one."""
    works: Mapping[str, float] = MappingProxyType({})
    """How long it takes, with what must be loaded before, by the key of the work."""
    services: Mapping[str, float] = MappingProxyType({})
    """The same without loads."""
    profile: ServingProfile | None = None
    """How it batches and loads; None if it does neither, or is not known."""
    serving: ServingLoad | None = None
    """Its queue and its memory then; None if it does neither."""


def after_view(servers: Mapping[str, ServerView], view: View, now_s: float) -> dict[str, ServerView]:
    """Return what is known after the controller sent a view.

    Args:
        servers: by name.
        view: of the controller.
        now_s: on the node's clock.
    """
    found = dict(servers)
    for info in view.servers:
        found[info.name] = found.get(info.name, ServerView(info))._replace(
            info=info,
            models=fingerprints_by_name(info.models),
            works={work.work: work.service_s + work.load_s for work in info.works},
            services={work.work: work.service_s for work in info.works},
        )
    for name, profile in view.profiles:
        if name in found:
            found[name] = found[name]._replace(profile=profile)
    if view.names is not None:
        found = {name: found[name] for name in view.names if name in found}
    for load in view.loads:
        known, at_s = found.get(load.name), now_s - load.age_s
        if known is not None and at_s > known.at_s:
            found[load.name] = known._replace(
                backlog_s=load.backlog_s, queued=load.queued, room=load.room, at_s=at_s, serving=load.serving
            )
    return found


def fingerprints_by_name(served: Iterable[ServedName]) -> dict[str, tuple[str, ...]]:
    """Return the fingerprints that belong to each name.

    Args:
        served: of an edge server.
    """
    found: dict[str, tuple[str, ...]] = {}
    for model in served:
        found[model.name] = (*found.get(model.name, ()), model.fingerprint)
    return found


@lru_cache(4096)
def work_key(model: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    """Return the name that a kind of work has in reports.

    Args:
        model: name of the network.
        inputs: names of the tensors that are given.
        outputs: names of the tensors to compute; empty for the network's own.
    """
    text = "\0".join((model, *inputs, "", *outputs))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
