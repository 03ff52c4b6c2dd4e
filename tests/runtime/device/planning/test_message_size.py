"""What messages weigh is what is sent."""

import numpy as np
from tests.runtime.device.planning.test_early_exit import GRAPH, device, node
from tests.runtime.device.test_device import PICTURES
from tests.tables import analytic_table

from coinfer.options.compile import compile_options
from coinfer.runtime.device.planning.message_size import message_bits, with_messages
from coinfer.runtime.protocol.messages import InferReply, InferRequest
from coinfer.runtime.protocol.protobuf import reply_bits
from coinfer.types import OffloadDecision


def test_messages_without_payloads_weigh_what_was_sent_beside_them():
    carried: list[tuple[float, float]] = []

    def weighing(request: InferRequest) -> InferReply:
        reply = node(request)
        carried.append((8 * sum(len(tensor.data) for tensor in request.inputs), reply_bits(reply)))
        return reply

    with device({"a:1": weighing}, bits=(8,), hedge=False) as ours:
        for option, (exit_, cut, _) in enumerate(ours.options.triples):
            outputs = (GRAPH.outputs[exit_],)
            if cut == outputs:
                continue
            decision = OffloadDecision(np.array([option]), np.array([0]))
            result = ours.infer(PICTURES[0], policy=lambda _, decision=decision: decision)
            payload_bits, back_bits = carried[-1]
            beside_bits = message_bits(GRAPH, (cut, outputs))
            found_bits = result.sent_bits - payload_bits + back_bits  # this node leaves out some of what edges tell
            assert 0.5 * found_bits < beside_bits < found_bits + 8 * 250, cut


def test_only_what_is_sent_is_heavier():
    plain = compile_options(GRAPH, analytic_table(GRAPH), (8,))
    heavier = with_messages(plain, GRAPH)
    assert ((heavier.upload_bits > plain.upload_bits) == (plain.upload_bits > 0)).all()
    assert heavier.triples == plain.triples
