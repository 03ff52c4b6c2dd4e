"""Who may call what: the whole table. What is not in it, nobody may call."""

import re
from collections.abc import Mapping

from coinfer.site.certificates.roles import ROLES, Role

Rule = tuple[str, str, frozenset[Role]]
"""Method, pattern of the whole path, and the roles that may make such a request."""
ALL = frozenset[Role](ROLES)
NODES = frozenset[Role](("edge", "device"))
READERS = frozenset[Role](("operator", "controller"))

_INFERENCE = "/inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health"
SITE = "/coinfer.Site"
GRPC: Mapping[str, frozenset[Role]] = {
    f"{_INFERENCE}/ModelInfer": NODES,
    f"{_INFERENCE}/ModelStreamInfer": NODES,
    f"{_INFERENCE}/ServerLive": ALL,
    f"{_INFERENCE}/ServerReady": ALL,
    f"{_INFERENCE}/ServerMetadata": ALL,
    f"{_INFERENCE}/ModelReady": ALL,
    f"{_INFERENCE}/ModelMetadata": ALL,
    f"{_INFERENCE}/ModelConfig": ALL,
    f"{_INFERENCE}/ModelStatistics": READERS,
    f"{_INFERENCE}/RepositoryIndex": READERS,
    f"{_INFERENCE}/RepositoryModelLoad": frozenset[Role](("operator",)),
    f"{_INFERENCE}/RepositoryModelUnload": frozenset[Role](("operator",)),
    f"{_HEALTH}/Check": ALL,
    f"{_HEALTH}/Watch": ALL,
    f"{SITE}/Join": NODES,
    f"{SITE}/State": READERS,
    f"{SITE}/Experience": READERS,
    f"{SITE}/Policy": READERS,
    f"{SITE}/PushPolicy": READERS,
    f"{SITE}/ChangePolicy": frozenset[Role](("operator",)),
}
"""Roles by the full name of a gRPC method."""
HTTP: tuple[Rule, ...] = (
    ("POST", r"/v2/models/[^/]+(/versions/[^/]+)?/infer", NODES),
    ("GET", r"/v2/models/([^/]+/(versions/[^/]+/)?)?stats", READERS),
    ("POST", r"/v2/repository/index", READERS),
    ("POST", r"/v2/repository/models/[^/]+/(un)?load", frozenset[Role](("operator",))),
    ("GET", r"/v2(/.*)?", ALL),
    ("GET", r"/metrics", READERS),
)
"""Rules of an edge server's REST; the first one that fits counts."""
PAGE: tuple[Rule, ...] = (("GET", r"/metrics", READERS), ("GET", r"/.*", frozenset[Role](("operator",))))
"""Rules of the controller's page."""


def may_call(method: str, role: Role) -> bool:
    """Return true if a role may call a gRPC method.

    Args:
        method: full name, such as `/coinfer.Site/Join`.
        role: of the caller.
    """
    return role in GRPC.get(method, frozenset())


def may_request(table: tuple[Rule, ...], method: str, path: str, role: Role) -> bool:
    """Return true if a role may make an HTTP request.

    Args:
        table: `HTTP` or `PAGE`.
        method: such as GET.
        path: without query.
        role: of the caller.
    """
    return role in next((roles for verb, form, roles in table if verb == method and re.fullmatch(form, path)), ())
