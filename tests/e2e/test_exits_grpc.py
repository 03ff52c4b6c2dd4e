"""A network with exits on a device and a real edge process: every exit, cut and number of bits."""

from pathlib import Path

import numpy as np
from tests.e2e.sites import asked_there, edges, relative_error
from tests.patience import patient_transport
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.graph.zoo import early_exits
from coinfer.options.compile import compile_options
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.device import Device
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, preprocess
from coinfer.types import DEVICE, OffloadDecision

EXACT = 1e-4
PICTURE = load_images()[0][1]
BITS = (32, 16, 12, 8, 4)


def test_every_exit_cut_and_number_of_bits_answers_as_the_codec_and_the_network_say(tmp_path: Path):
    file = tmp_path / "net.onnx"
    save_model(early_exits.build("alexnet-cifar-exits"), file)
    graph = open_model(file)
    assert graph.image is not None
    table, accuracy = analytic_table(graph), made_up_accuracy(graph)
    options = compile_options(graph, table, BITS, accuracy)
    local = Executor(graph)
    inputs = {graph.inputs[0]: preprocess(PICTURE, graph.image)}
    with (
        edges([str(file)], [()]) as (edge,),
        Device(
            graph,
            servers=[edge.address],
            profile=table,
            options=options,
            accuracy=accuracy,
            hedge=False,
            transport=patient_transport(),
        ) as device,
    ):
        for option, (exit_, cut, bits) in enumerate(options.triples):
            outputs = (graph.outputs[exit_],)
            stays = cut == outputs
            decision = OffloadDecision(np.array([option]), np.array([DEVICE if stays else 0]))
            node = "device" if stays else edge.address
            result = asked_there(device, PICTURE, node, policy=lambda _, decision=decision: decision)
            width = 32 if cut == graph.inputs else bits  # a picture's own bytes lose nothing
            head = local.run(inputs, cut)[0]
            sent = head if stays else {name: unpack(pack(name, tensor, width)) for name, tensor in head.items()}
            expected = local.run(sent, outputs)[0][outputs[0]]
            where = (exit_, cut, bits)
            assert result.fallback == "", where
            assert list(result.outputs) == list(outputs), where
            assert relative_error(result.output, expected) <= EXACT, where
            assert (result.route.exit, result.exit) == (exit_, exit_), where
            assert result.outcome.accuracy == options.accuracy[option], where
        assert edge.served() == len(options.bits) - len(graph.outputs)
