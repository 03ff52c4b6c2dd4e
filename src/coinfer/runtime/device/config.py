"""The settings of a device: one description for Python, the command line and the demo."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from coinfer.addresses import different_servers
from coinfer.errors import UserError
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.providers import CPU, check_provider
from coinfer.units import WIRE_BITS, WIRE_BITS_TEXT

if TYPE_CHECKING:  # only named here: the command line reads defaults from this module and stays cheap to start
    from coinfer.profile.accuracy import AccuracyTable
    from coinfer.profile.table import ProfileTable
    from coinfer.types import Policy

JPEG_QUALITIES = range(1, 96)
MAX_THREADS = 1024


class DeviceError(UserError):
    """A wrong setting of a device, or a wrong use; the message is one line for a person."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceConfig:
    """Settings of a `Device`, checked on construction; `dataclasses.replace` changes some of them.

    Raises:
        UserError: if a setting is out of range; the message names it, its value and what is expected.
    """

    servers: Sequence[str] = ()
    """`host:port` of edge servers that serve the same network; `dns:name:port` stands for all addresses of a name,
    `zeroconf` for those that announce themselves in the local network."""
    deadline_s: float = math.inf
    """Time from the call of `infer` to the answer; infinity for no deadline."""
    objective: Objective = field(default_factory=Objective)
    """What the planner optimises."""
    policy: "Policy | str | Path | None" = None
    """Decides instead of the planner: a function, or the file of a policy that was trained for this network's options
    and this number of servers, or for so many blocks and servers. If it fails on a request, the planner decides."""
    bits: Sequence[int] | None = None
    """Allowed bits per element of what is sent; (32,) keeps every answer exact. None allows 32 and 16, and fewer where
    their effect on this network was measured (`options.earned`)."""
    jpeg_quality: int | None = None
    """Quality of the JPEG that pictures are sent as, 1 to 95; None sends their pixels unchanged."""
    accuracy: "AccuracyTable | str | Path | None" = None
    """Measured accuracy table or its file, which makes each output of the network an exit; None takes the table that is
    shipped with the network, if any."""
    confidence: float | Sequence[float] | None = None
    """Thresholds of early exits: the device answers at an exit before the cut if the entropy of its class
    probabilities, 0 to 1, is below its threshold. One for each exit but the last, or one for all."""
    confidence_loss: float | None = None
    """Accuracy that early exits may lose against the last exit; chooses the thresholds from the accuracy table."""
    hedge: bool = True
    """Whether the device starts on the rest itself, and asks another server that seems sooner, if one is late. If one
    fails, they always do."""
    max_in_flight: int = 64
    """Requests that may be under way at the same time; one more is refused with a `RefusedError`."""
    refuse_late: bool = False
    """Whether a request is refused that is predicted to miss its deadline because of others that are under way. Such
    answers are of no use to anybody and delay the next ones; without it they come late."""
    profile: "ProfileTable | str | Path | None" = None
    """Measured times of the network or their file; None measures them on this machine and caches them."""
    slowdown: float = 1.0
    """Emulate a processor that is this many times slower than this one."""
    threads: int = 1
    """Threads within one operation."""
    provider: str = CPU
    """What computes, by its short name: `cpu`, or another that is installed, such as `cuda` or `openvino`."""
    limits: Mapping[str, int | str] = field(default_factory=dict)
    """Other limits of what the network's file may take, as `open_model` takes them."""
    shapes: Mapping[str, int | str | Sequence[int | str]] = field(default_factory=dict)
    """Sizes of axes that the network's file leaves free, as `open_model` takes them; without any, those that
    `profile` was measured with."""

    controller: str = ""
    """`host:port` of a site's controller, which knows the edge servers; empty for none."""
    site: str | Path | None = None
    """Folder of the site, or of this device's certificate; None speaks plain text."""
    dispatch: bool = False
    """Leave it to the edge server that a request reaches which server of the site computes it."""
    dispatch_cut: bool = False
    """Leave it to that server, too, what the device computes before: it is asked where the answer should take little of
    the time that the device predicts. Then `dispatch` holds too."""
    name: str = ""
    """Of this device in a site without certificates; empty for one that is made up."""
    insecure: bool = False
    """Allow plain text to a controller on another machine."""

    def __post_init__(self) -> None:
        if isinstance(self.servers, str):
            raise DeviceError(f"servers is one string; expected a list such as [{self.servers!r}]")
        for server in self.servers:
            if not isinstance(server, str):
                raise DeviceError(f"servers holds {server!r}; expected texts such as 'host:8001'")
        if not isinstance(self.objective, Objective):
            raise DeviceError(f"objective is {self.objective!r}; expected coinfer.Objective(...)")
        if isinstance(self.bits, int):
            raise DeviceError(f"bits is {self.bits}; expected a sequence such as ({self.bits},)")
        object.__setattr__(self, "servers", different_servers(self.servers))
        object.__setattr__(self, "dispatch", self.dispatch or self.dispatch_cut)
        object.__setattr__(self, "bits", None if self.bits is None else tuple(self.bits))
        check_deadline(self.deadline_s)
        if self.bits is not None and (not self.bits or any(width not in WIRE_BITS for width in self.bits)):
            raise DeviceError(f"bits is {self.bits}; expected some of {WIRE_BITS_TEXT}")
        if not 1 <= self.slowdown < math.inf:
            raise DeviceError(f"slowdown is {self.slowdown}; expected 1 (this processor) or more")
        if not 1 <= self.threads <= MAX_THREADS:
            raise DeviceError(f"threads is {self.threads}; expected 1 to {MAX_THREADS}")
        if self.max_in_flight < 1:
            raise DeviceError(f"max_in_flight is {self.max_in_flight}; expected 1 or more")
        if self.provider != CPU:  # which needs no look at what is installed
            check_provider(self.provider)
        if self.jpeg_quality is not None and self.jpeg_quality not in JPEG_QUALITIES:
            raise DeviceError(f"jpeg_quality is {self.jpeg_quality}; expected 1 to {JPEG_QUALITIES[-1]}")
        if self.confidence is not None and self.confidence_loss is not None:
            raise DeviceError("confidence and confidence_loss are both given; expected one of them")


def check_deadline(deadline_s: float) -> None:
    """Refuse a deadline that is not above 0.

    Args:
        deadline_s: from the request to its answer; infinity stands for none.

    Raises:
        DeviceError: if it is 0, negative or NaN.
    """
    if not isinstance(deadline_s, Real) or not deadline_s > 0:
        raise DeviceError(f"deadline_s is {deadline_s!r}; expected seconds above 0")


DEFAULTS = DeviceConfig()
"""The command line and the demo take their defaults from here too."""
