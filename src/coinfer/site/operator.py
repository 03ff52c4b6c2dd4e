"""What an operator asks a running controller."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from coinfer.addresses import parse_address
from coinfer.errors import UserError
from coinfer.policies.onnx import kind_of, load_policy, shipped_path
from coinfer.policies.serving_onnx import KIND as SERVING
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.runtime.transport.grpc_transport import client_options
from coinfer.site.certificates.access import SITE
from coinfer.site.certificates.grpc_security import failure_text, open_channel
from coinfer.site.certificates.identity import find_identity
from coinfer.site.certificates.plain import check_plain_address
from coinfer.site.certificates.roles import Role
from coinfer.site.messages import MESSAGE_BYTES

PAGE_BYTES = 64 * MESSAGE_BYTES
TIMEOUT_S = 10.0


class OperatorError(UserError):
    """A controller that does not answer, or not to this operator; the message is one line for a person."""


class Operator:
    """A connection to a controller, as a context manager.

    Args:
        controller: `host:port`.
        site: folder of the site, or of the certificate; None speaks plain text.
        insecure: allow plain text to another machine.
        role: of the certificate.

    Raises:
        UserError: if address or certificate cannot be used.
    """

    def __init__(self, controller: str, site: Path | None, insecure: bool, role: Role = "operator"):
        self.address = str(parse_address(controller, "--controller"))
        self._identity = identity = None if site is None else find_identity(site, role)
        check_plain_address(identity, self.address, insecure, "--controller")
        self._channel = open_channel(
            identity, self.address, "controller", client_options(PAGE_BYTES, patience_s=TIMEOUT_S)
        )

    def __enter__(self) -> "Operator":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def state(self) -> dict[str, Any]:
        """Return what the controller knows of its site.

        Raises:
            OperatorError: if it does not answer.
        """
        try:
            return json.loads(self._channel.unary_unary(f"{SITE}/State")(b"", timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            raise self._error(error) from None

    def experience(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the decisions of the site, the oldest first.

        Args:
            after: only those with a larger `id`.

        Raises:
            OperatorError: if the controller does not answer.
        """
        try:
            for page in self._channel.unary_stream(f"{SITE}/Experience")(str(after).encode()):
                yield from json.loads(page)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def policy(self, call: str, request: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return what the controller answers about policies.

        Args:
            call: `Policy`, `PushPolicy` or `ChangePolicy`.
            request: `do` and what belongs to it; bytes are sent as Base64.
            timeout_s: how long to wait.

        Raises:
            OperatorError: if it does not answer, or refuses; one line.
        """
        body = {key: b64encode(one).decode() if isinstance(one, bytes) else one for key, one in request.items()}
        try:
            return json.loads(self._channel.unary_unary(f"{SITE}/{call}")(json.dumps(body).encode(), timeout=timeout_s))
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise OperatorError(str(error.details())) from None
            raise self._error(error) from None

    def push(self, onnx: Path) -> dict[str, Any]:
        """Give a policy to the controller as a candidate, and return what it says.

        Args:
            onnx: file of the network; its side-car is beside it.

        Raises:
            UserError: if there is no such file, or the controller refuses it.
        """
        return self.policy("PushPolicy", {"do": "push", **read_policy(onnx)})

    def _error(self, error: grpc.RpcError) -> OperatorError:
        return OperatorError(f"the controller at {self.address} {failure_text(error, self._identity)}")


def read_policy(onnx: Path) -> dict[str, bytes]:
    """Return a policy's two files, as they are sent.

    Args:
        onnx: file of the network, or the name of a policy that comes with the package.

    Raises:
        UserError: if they are no policy.
    """
    path = shipped_path(onnx)
    load_serving_policy(path) if kind_of(path) == SERVING else load_policy(path)  # or it says what is wrong
    return {"onnx": path.read_bytes(), "sidecar": path.with_suffix(".json").read_bytes()}
