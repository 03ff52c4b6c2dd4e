"""Requests at random times (Poisson), whatever becomes of earlier ones, over one gRPC channel to each server."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import grpc
import numpy as np
from grpc import aio

from coinfer.runtime.transport.grpc_transport import SERVICE

REFUSALS = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE")


class Outcome(NamedTuple):
    """What became of one request."""

    latency_s: float
    """From the moment when it was due."""
    code: str
    """`OK`, or the status of the error."""
    reply: bytes = b""


def poisson_times(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return the times of requests that come at random, `rate` of them per second."""
    times = np.cumsum(rng.exponential(1 / rate, int(2 * rate * seconds) + 20))
    return times[times < seconds]


def offer(address: str, messages: Sequence[bytes], times_s: np.ndarray, timeout_s: float) -> list[Outcome]:
    """Send message k at time k, and return what became of each; a request that takes longer than the timeout ends."""
    return asyncio.run(_offer(address, messages, times_s, timeout_s))


async def _offer(address: str, messages: Sequence[bytes], times_s: np.ndarray, timeout_s: float) -> list[Outcome]:
    async with aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        began_s = time.perf_counter() + 0.01

        async def one(message: bytes, due_s: float) -> Outcome:
            await asyncio.sleep(max(began_s + due_s - time.perf_counter(), 0.0))
            try:
                reply, code = await call(message, timeout=timeout_s), "OK"
            except grpc.RpcError as error:
                reply, code = b"", error.code().name
            return Outcome(time.perf_counter() - began_s - due_s, code, reply)

        return await asyncio.gather(*(one(*pair) for pair in zip(messages, times_s.tolist(), strict=True)))


def in_flight(address: str, messages: Sequence[bytes], count: int, timeout_s: float = 60.0) -> list[Outcome]:
    """Send messages in order with so many always open, and return what became of each."""
    return asyncio.run(_in_flight(address, messages, count, timeout_s))


async def _in_flight(address: str, messages: Sequence[bytes], count: int, timeout_s: float) -> list[Outcome]:
    outcomes: list[Outcome] = [Outcome(0.0, "")] * len(messages)
    numbers = iter(range(len(messages)))
    async with aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def work() -> None:
            for number in numbers:
                began_s = time.perf_counter()
                try:
                    reply, code = await call(messages[number], timeout=timeout_s), "OK"
                except grpc.RpcError as error:
                    reply, code = b"", error.code().name
                outcomes[number] = Outcome(time.perf_counter() - began_s, code, reply)

        await asyncio.gather(*(work() for _ in range(count)))
    return outcomes
