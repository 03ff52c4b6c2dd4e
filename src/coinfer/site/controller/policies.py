"""What a controller says of policies: to servers over their streams, to operators and the trainer by calls."""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from coinfer.errors import UserError, short_repr
from coinfer.site.certificates.access import SITE
from coinfer.site.messages import Policies, PolicyFile, PolicyShare
from coinfer.site.updater.updater import Updater
from coinfer.site.updater.versions import describe

NO_POLICIES = "this controller rolls out no policies"
Answer = Callable[[dict[str, Any], Updater, str], Awaitable[dict[str, Any]]]
"""From a request, the updater and who asks to what is answered."""


def policies_of(updater: Updater, node: str, *, explores: bool = True) -> Policies:
    """Return who decides on a node.

    Args:
        updater: of the site.
        node: its name.
        explores: it may try other servers now and then.
    """
    shares = updater.shares(node)
    marks = {one.number: one.fingerprint for one in updater.rollout.versions}
    named = tuple(
        PolicyShare(version=number, fingerprint=marks.get(number, ""), share=share) for number, share in shares.items()
    )
    salt = updater.rollout.salt if node == updater.rollout.canary else ""
    return Policies(shares=named, explore=updater.explore() if explores else 0.0, salt=salt)


def policy_file(updater: Updater, number: int) -> PolicyFile:
    """Return a version as it is sent to servers.

    Args:
        updater: of the site.
        number: of the version.
    """
    onnx, sidecar = (b64encode(part).decode() for part in updater.folder.files(number))
    mark = updater.rollout.version(number).fingerprint
    return PolicyFile(version=number, fingerprint=mark, onnx=onnx, sidecar=sidecar)


def policy_methods(updater: Callable[[], Updater | None], name_of: Callable[[Any], str]) -> dict[str, Any]:
    """Return the handlers of the calls about policies, by their full names.

    Args:
        updater: returns that of the site; None if policies are not rolled out.
        name_of: returns who calls.
    """

    def handler(answers: dict[str, Answer]) -> Any:
        async def call(message: bytes, context: Any) -> bytes:
            try:
                request = json.loads(message)
                answer = answers[request["do"]]
            except (ValueError, KeyError, TypeError):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expected one of {', '.join(answers)}")
                raise AssertionError from None
            one = updater()
            if one is None:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, NO_POLICIES)
                raise AssertionError
            try:
                return json.dumps(await answer(request, one, name_of(context))).encode()
            except (UserError, OSError, KeyError, TypeError, Base64Error) as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error)[:1000])
                raise AssertionError from None

        return grpc.unary_unary_rpc_method_handler(call)

    return {
        f"{SITE}/Policy": handler({"list": _list, "judge": _judge}),
        f"{SITE}/PushPolicy": handler({"push": _push}),
        f"{SITE}/ChangePolicy": handler({"pin": _pin, "unpin": _unpin, "rollback": _roll_back}),
    }


async def _list(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    return updater.state()


async def _judge(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    verdict = await updater.judge_files(b64decode(request["onnx"]), b64decode(request["sidecar"]))
    return verdict._asdict()


async def _push(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    version = updater.push(b64decode(request["onnx"]), b64decode(request["sidecar"]), who)
    return {"said": describe(version), "version": version.number}


async def _pin(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    number = request["version"]
    if not isinstance(number, int):
        raise UserError(f"version is {short_repr(number)}; expected a whole number")
    updater.pin(number, who)
    return {"said": updater.rollout.history[-1].text}


async def _unpin(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    updater.unpin(who)
    return {"said": updater.rollout.history[-1].text}


async def _roll_back(request: dict[str, Any], updater: Updater, who: str) -> dict[str, Any]:
    updater.roll_back(who)
    return {"said": updater.rollout.history[-1].text}
