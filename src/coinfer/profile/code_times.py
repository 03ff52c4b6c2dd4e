"""What the codes of a network's bottleneck cost on one machine."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from coinfer.graph.ir import ModelGraph

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CodeTimes(BaseModel):
    """One code, measured in the pieces that run: up to its symbols, and from them to the answer of each exit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: str
    """Name of the symbols."""
    device_s: Amount
    """From the network's inputs to the symbols."""
    server_s: Amount
    """From the symbols to the answer of the last exit."""
    earlier_s: dict[str, Amount] = {}
    """From the symbols to the answers of earlier exits, by name of the answer."""
    encode_s: Amount
    decode_s: Amount
    size_bits: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Mean size of a payload."""

    def answer_s(self, answer: str) -> float:
        """Return the time from the symbols to an answer.

        Args:
            answer: name of an answer from this code.
        """
        return self.earlier_s.get(answer, self.server_s)

    def scaled(self, ratio: float, size_ratio: float = 1.0) -> "CodeTimes":
        """Return the times on a machine of another speed, or of a batch.

        Args:
            ratio: of the times.
            size_ratio: of the sizes.
        """
        names = ("device_s", "server_s", "encode_s", "decode_s")
        times = {name: getattr(self, name) * ratio for name in names}
        earlier_s = {name: seconds * ratio for name, seconds in self.earlier_s.items()}
        return self.model_copy(update=times | {"earlier_s": earlier_s, "size_bits": self.size_bits * size_ratio})


class BottleneckTimes(BaseModel):
    """All codes of a bottleneck."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    """Fingerprint of the bottleneck's own network."""
    codes: tuple[CodeTimes, ...]

    def fits(self, graph: ModelGraph) -> bool:
        """Return true if these times are those of a network's bottleneck.

        Args:
            graph: the network.
        """
        return graph.bottleneck is not None and graph.bottleneck.graph.fingerprint == self.fingerprint

    def segment_s(self, graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str]) -> float:
        """Return the time to compute the symbols or the answer of a code; 0 if nothing must be computed.

        Args:
            graph: the network.
            inputs: of the network, or the symbols of a code.
            outputs: the symbols of a code, or one of its answers.

        Raises:
            ValueError: if these are no such tensors.
        """
        bottleneck = graph.bottleneck
        code = None if bottleneck is None else bottleneck.code(outputs[0])
        times = next((one for one in self.codes if code is not None and one.tensor == code.tensor), None)
        if code is None or times is None or len(outputs) > 1:
            raise ValueError(f"{', '.join(outputs)}: neither symbols nor answer of a bottleneck")
        if tuple(inputs) == tuple(outputs):
            return 0.0
        server_s = 0.0 if outputs[0] == code.tensor else times.answer_s(outputs[0])
        return server_s if code.tensor in inputs else times.device_s + server_s

    def scaled(self, ratio: float, size_ratio: float = 1.0) -> "BottleneckTimes":
        """Return the times on a machine of another speed, or of a batch.

        Args:
            ratio: of the times.
            size_ratio: of the sizes.
        """
        return self.model_copy(update={"codes": tuple(code.scaled(ratio, size_ratio) for code in self.codes)})
