"""A device's place in a site. The site provides it when a device asks for one; this package knows none."""

from importlib import import_module
from typing import Protocol, cast

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.plan import Plan
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.server_pool import ServerPool
from coinfer.runtime.transport.grpc_transport import Connector
from coinfer.types import Policy

_PROVIDER = ("coinfer.site.agent.device_agent", "join_device")
"""Imported when a device joins a site, and not before: without one a device needs nothing of a site's libraries."""


class Membership(Protocol):
    """The part of a site that lives in a device's process."""

    @property
    def connector(self) -> Connector:
        """Return how connections to edge servers are opened."""
        ...

    def servers(self) -> tuple[str, ...]:
        """Return the addresses of the site's edge servers that serve the device's network, as far as they are known."""
        ...

    def start(self, pool: ServerPool) -> None:
        """Keep a device's servers up to date from now on.

        Args:
            pool: of the device.
        """
        ...

    def policy(self) -> Policy[np.ndarray] | None:
        """Return what decides about the next request of this thread; None for the device's own."""
        ...

    def record(self, plan: Plan, result: Result) -> None:
        """Tell the site of a request that was answered.

        Args:
            plan: of the request.
            result: of the request.
        """
        ...

    def close(self) -> None:
        """Leave the site."""
        ...


def join_site(config: DeviceConfig, graph: ModelGraph) -> Membership | None:
    """Return a device's place in the site that its settings name; None if they name none.

    Args:
        config: settings of the device.
        graph: its network.

    Raises:
        UserError: if address, name or certificate cannot be used.
    """
    if not config.controller and config.site is None:
        return None
    module, name = _PROVIDER
    return cast(Membership, getattr(import_module(module), name)(config, graph))
