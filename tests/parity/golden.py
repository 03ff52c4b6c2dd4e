"""What must stay as it is when code is moved and renamed, as figures: see `test_golden`.

    python -m tests.parity.golden      # writes golden.json anew, from the code as it is now

Everything that is asked of the package comes in through the imports below. Each function of `CASES` returns plain JSON:
names, counts, bytes and choices as text or whole numbers, which must be equal, and results of arithmetic as floats.
`figures` says how they are compared.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tests.graph.small_graphs import run as run_pieces
from tests.parity.figures import digests, machine, number, numbers, packed, sha, summary
from tests.tables import analytic_table, made_up_accuracy
from tritonclient.grpc import service_pb2

from coinfer import records
from coinfer.envs import rewards, wireless_power
from coinfer.envs.batched_env import environment_of, reward_of
from coinfer.evaluate import limits, oracles
from coinfer.evaluate.policy_files import tensor_policy
from coinfer.evaluate.simulate import episode_seeds, known_policies
from coinfer.exit_training import train as exit_training
from coinfer.exit_training.settings import ExitSettings
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo import early_exits as exits
from coinfer.graph.zoo import networks as zoo
from coinfer.options.compile import compile_options
from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.partition.chain import chain
from coinfer.partition.hull import hull
from coinfer.partition.mincut import mincut
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import plain_bits, star
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.policies.onnx import load_policy
from coinfer.profile.dataset import ImageDataset
from coinfer.rl import export, registry
from coinfer.rl.algorithms import cdo_dsac, ddpg, online_rl
from coinfer.rl.algorithms import scorer as scorer_training
from coinfer.rl.core.training import TrainSettings
from coinfer.runtime.codec import codec
from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.device.planning.observation import least_latency, observe
from coinfer.runtime.device.planning.plan import route_of
from coinfer.runtime.protocol import json_messages, protobuf
from coinfer.runtime.protocol.messages import ExecutedHop, InferReply, InferRequest, LoadReport, from_array
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import PRESETS, parse_changes
from coinfer.types import Hop, OffloadObservation, Outcome, Route

FILE = Path(__file__).with_name("golden.json")
WORLDS, SLOTS, FIRST_SLOT = 2, 6, 3
"""Policies decide for so many worlds, in the slots from `FIRST_SLOT` to `SLOTS`, when queues have formed."""
SCENARIOS = {
    "grle-s2",
    "grle-s3",
    "grle-s4",
    "droo-weights",
    "droo-on-off",
    "droo-queues",
    "gpu-edge",
    "many-models",
    "tight-memory",
}
"""Presets without figures: they change one key of another one, or have tests of their own (`envs.test_serving`)."""
KINDS = {"offload": [p for p in PRESETS if p not in {"droo", "mtl-a3c"} | SCENARIOS], "blocks": ["mtl-a3c"]}
LATER = {"proportional", "cut-schedule"}
"""Policies that came after the record; they are tested where they are defined."""
SEARCHED = {"sacd", "sacd-cifar"}
"""Presets of one task in a slot, where all decisions can be tried."""
CONTRACT = OffloadObservation._fields


# Decisions and episodes


@cache
def compiled(name: str) -> Any:
    return open_world(name)


@torch.no_grad()
def observations(name: str) -> list[tuple[Any, Any]]:
    """States and what is seen of them, in worlds where another policy decides at random."""
    world = compiled(name).world
    env = environment_of(world)
    tables = env.load(world)
    state, decide, found = env.reset(tables, episode_seeds(WORLDS, 1)), other(world), []
    for _ in range(SLOTS):
        seen = env.observe(tables, state)
        found.append((state, seen))
        state = env.step(tables, state, decide(seen), rewards.latency).state
    return found[FIRST_SLOT:]


def recorded_policies(world: Any) -> dict[str, Callable[[int], Any]]:
    return {key: maker for key, maker in known_policies(world).items() if key not in LATER}


def other(world: Any) -> Callable[[Any], Any]:
    makers = known_policies(world)
    return (makers.get("random") or makers["rpdi"])(5)


def made(decision: Any, seen: Any) -> list[Any]:
    """The choices of a decision, 127 where there is no task."""
    mask = seen.task_mask
    return [torch.where(mask if part.dim() == mask.dim() else seen.block_mask, part, 127) for part in decision]


@torch.no_grad()
def decisions(name: str) -> Any:
    """What every policy decides on the same observations."""
    world, slots = compiled(name).world, observations(name)
    tables = environment_of(world).load(world)
    deciders = {
        key: (lambda policy: lambda _, seen: policy(seen))(maker(0)) for key, maker in recorded_policies(world).items()
    }
    if name in KINDS["offload"]:
        file = tensor_policy(load_policy("learned"))
        deciders["the shipped file"] = lambda _, seen: file(seen)
    if name == "cdo-dsac":
        deciders["slot-descent"] = oracles.ORACLES["slot-descent"](tables)
    if name in SEARCHED:
        deciders["slot-optimum"] = oracles.ORACLES["slot-optimum"](tables)
        deciders["reward optimum"] = oracles.reward_optimum(reward_of(compiled(name).reward))(tables)
    return {
        key: packed(part for state, seen in slots for part in made(decide(state, seen), seen))
        for key, decide in deciders.items()
    }


@torch.no_grad()
def episodes(name: str) -> Any:
    """Sums of what comes of short episodes, each policy in worlds of its own."""
    world = compiled(name).world
    env, reward = environment_of(world), reward_of(compiled(name).reward)
    tables, found = env.load(world), {}
    for key, maker in recorded_policies(world).items():
        state, policy, outcomes, paid = env.reset(tables, episode_seeds(WORLDS, 1)), maker(0), [], 0.0
        for _ in range(SLOTS):
            stepped = env.step(tables, state, policy(env.observe(tables, state)), reward)
            state, paid = stepped.state, paid + float(stepped.reward.sum())
            outcomes.append([part.double().sum() for part in (*stepped.outcome, stepped.info.refused)])
        found[key] = numbers([*np.sum(outcomes, axis=0), paid, state.server_backlog_s.double().sum()])
    return found


def frames() -> Any:
    """DROO: who sends, and the rates of that."""
    tables = wireless_power.load(compiled("droo").world)
    state, found = wireless_power.reset(tables, episode_seeds(8, 1)), {}
    for key, maker in MODES.items():
        modes = maker(0)(state.gain, state.weight, partial(wireless_power.rates_bps, tables, state))
        found[key] = [packed([modes]), numbers(wireless_power.step(tables, state, modes).allocation.rate_bps)]
    return found


def bounds() -> Any:
    """The lower bound of short episodes."""
    world = open_world("cdo-dsac", {**parse_changes(SMALL), "slots": 4}).world
    found = limits.lower_bound(world, 2, 1, steps=20).measures
    return {name: numbers(found[name]) for name in ("mean_s", "in_time")}


# Scenarios, options, partitions


def scenario(name: str) -> Any:
    """A preset's world: names of its options exactly, its arrays by their sums."""
    one = compiled(name)
    labels = [
        [[[e + 1, "".join(cut), b] for e, cut, b in kinds.sidecar_triples] for kinds in row] for row in one.options
    ]
    return {"labels": sha(labels), "names": [*one.networks, *one.devices], "arrays": [*arrays(one.world)]}


def arrays(value: Any) -> Iterator[list[float | None]]:
    """Summaries of all arrays in nested tuples, in their order."""
    if isinstance(value, tuple):
        for part in value:
            yield from arrays(part)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield summary(value)


@cache
def network(name: str) -> ModelGraph:
    return (zoo.build if name in zoo.ZOO else exits.build)(name)


def option_table(name: str) -> Any:
    """Options from a made-up profile, all and pruned, and what the planner takes for a few link rates of idle nodes."""
    graph = network(name)
    accuracy = made_up_accuracy(graph) if name in exits.EXITS else None
    options = compile_options(graph, analytic_table(graph), (32, 16, 12, 8, 4), accuracy)
    kept = prune(options, "hull", speed_ratios=SPEED_RATIOS)
    return {
        "options": [sha(listed(options)), len(options.bits)],
        "figures": [summary(part) for part in (options.device_s, options.upload_bits, options.server_s)],
        "accuracy": sha(options.accuracy.tolist()),
        "pruned": [sha(listed(kept)), len(kept.bits)],
        "pruned for energy": sha(listed(prune(options, "dominated"))),
        "planned": planned(kept),
    }


def listed(options: Any) -> list[Any]:
    return [[exit_, list(cut), bits] for exit_, cut, bits in options.triples]


def planned(options: Any) -> list[Any]:
    """[exit, cut, bits] by link rate; the observation as the runtime makes it for no server, with one put in."""
    alone = observe(options, [], 1.0, 0.0)
    found = []
    for rate_bps in (1e5, 1e6, 1e7, 1e9):
        seen = alone._replace(
            option_server_s=options.server_s[None] / 8 + 0.002,
            uplink_bps=np.array([[rate_bps]]),
            server_backlog_s=np.zeros(1),
            server_room=np.ones(1),
            observation_age_s=np.zeros(1),
            uplink_backlog_s=np.zeros((1, 1)),
        )
        decision = least_latency(seen)
        route = route_of(options, int(decision.option[0]), int(decision.server[0]), ["edge:1"], 1.0)
        found.append([route.exit, len(route.hops), *[[hop.node, list(hop.cut), hop.bits] for hop in route.hops]])
    return found


def partitions(name: str) -> Any:
    """Every solver's answer for a device and two servers, at a few rates."""
    graph = network(name)
    work = np.array([op.work_flop for op in graph.ops]) + 1e4
    op_s = np.stack([work / 5e9, work / 2e10, work / 2e11]) * (1 + 0.25 * (np.arange(len(work)) % 3))
    found = {}
    for solve in (chain, hull, mincut, multiway):
        for rate_bps in (1e6, 3e7):
            problem = star(graph, op_s, plain_bits(graph, 16, 8), np.array([rate_bps, rate_bps / 3]), 1e8, 0.001)
            answer = solve(problem)
            cuts = [list(cut.tensors) for cut in answer.cuts]
            found[f"{solve.__name__} {rate_bps:g}"] = [list(answer.nodes), sha(cuts), number(answer.latency_s)]
    return found


# Networks


WHOLE = ("alexnet-cifar", "nin", "alexnet-cifar-exits", "resnet32-cifar-exits")
FEW, LARGE = 3, 50_000_000
"""Cuts tried of others, and the number of weights beyond which it is one: loading those takes longest."""
MOST_CUTS = 3000


def cuts_and_answers(name: str) -> Any:
    """The names of a network's cuts, and its answers, whole and cut: a small one at every cut, a large one at few."""
    graph = network(name)
    (start,) = graph.inputs
    single = [cut.tensors for cut in graph.single_cuts()]
    every = [list(cut.tensors) for cut in islice(graph.all_cuts(1_000_000), MOST_CUTS)]
    useful = [cut.tensors for cut in graph.useful_cuts()]
    size = graph.tensors[start].shape
    picture = ((np.arange(math.prod(size)) * 7919 % 997 - 498) / 300).astype(np.float32).reshape(size)
    whole = run_pieces(graph, {start: picture}, graph.outputs)
    inner = [cut for cut in single if cut not in (graph.inputs, graph.outputs)]
    few = 1 if graph.params > LARGE else FEW
    tried = inner if name in WHOLE else inner[len(inner) // 3 :: len(inner) // 3][:few]
    worst = 0.0
    for cut in tried:
        sent = run_pieces(graph, {start: picture}, cut)
        answer = run_pieces(graph, {**sent, **({start: picture} if needs_input(graph, cut) else {})}, graph.outputs)
        worst = max(worst, *(float(np.abs(answer[key] - whole[key]).max() / np.abs(whole[key]).max()) for key in whole))
    return {
        "graph": [graph.fingerprint, len(graph.ops), graph.params, number(graph.work_flop)],
        "cuts": {"single": sha(single), "useful": [sha(useful), len(useful)], "all": [sha(every), len(every)]},
        "tried": [len(tried), worst < 1e-4],
        "answers": {key: [summary(value), numbers(value.reshape(-1)[:5])] for key, value in whole.items()},
    }


def needs_input(graph: ModelGraph, cut: tuple[str, ...]) -> bool:
    """No cut does; said so that a graph that would need it fails with an answer and not with an error."""
    return graph.needed((*cut, *graph.inputs), graph.outputs) != graph.needed(cut, graph.outputs)


# The wire


def numbers_to_send(*shape: int) -> np.ndarray:
    """Fractions that float32 holds exactly."""
    return ((np.arange(math.prod(shape)) * 7919 % 1009 - 500) / 8).astype(np.float32).reshape(shape)


def payloads() -> Any:
    """What the codec makes of tensors, at every number of bits, and what comes back."""
    found: dict[str, Any] = {}
    values = numbers_to_send(1, 5, 7, 9)
    for bits in (32, 16, 12, 8, 4):
        for kind in ("<f4", "<f8", "<f2"):
            payload = codec.encode(values.astype(kind), bits)
            found[f"{kind} {bits}"] = [sha(payload), len(payload), sha(codec.decode(payload).tobytes())]
    for kind in ("?", "u1", "i1", "<i4", "<i8"):
        found[kind] = sha(codec.encode((values > 0).astype(kind), 8))
    pixels = (np.arange(6 * 5 * 3) * 37 % 256).astype(np.uint8).reshape(6, 5, 3)
    picture = codec.encode_image(pixels, ImageInput(6, 5, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)))
    return {**found, "picture": [sha(picture), sha(codec.decode(picture).tobytes())]}


def messages() -> Any:
    """Requests and replies as bytes; of what protobuf may order as it likes, the deterministic form."""
    hops = (Hop("edge-1:8001", ("pool1", "relu2"), 8), Hop("[::1]:9", ("logits",), 32))
    found: dict[str, Any] = {}
    for bits in (None, 32, 16, 12, 8, 4):
        tensors = (pack("a/b.0", numbers_to_send(2, 3, 4), bits), from_array("n", np.arange(3, dtype=np.int64)))
        request = InferRequest("nin", tensors, ("pool1",), "7", "1", "f" * 64, 0.25, hops, bits, warm=bits is None)
        executed = (ExecutedHop("e:1", ("a",), 0.5, 0.25),)
        reply = InferReply("nin", tensors, "7", "1", 0.125, 0.25, 0.5, 1.0, LoadReport(0.5, 3, 4), executed)
        for name, kind, message in (
            ("request", service_pb2.ModelInferRequest, protobuf.request_bytes(request)),
            ("reply", service_pb2.ModelInferResponse, protobuf.reply_bytes(reply)),
        ):
            parsed = kind.FromString(message)
            ordered = parsed.SerializeToString(deterministic=True)
            found[f"{name} {bits}"] = [len(message), sha(ordered), sorted(parsed.parameters)]
        plain = bits is None
        body, json_bytes = json_messages.reply_body(reply, lambda _, plain=plain: not plain)
        asked, _ = json_messages.parse_request("nin", "1", rest_request(tensors), None)
        found[f"http {bits}"] = [sha(body), json_bytes, sha([[t.name, t.datatype, t.codec] for t in asked.inputs])]
        assert protobuf.parse_request(protobuf.request_bytes(request)) == request
    found["words"] = [protobuf.CODEC_PARAMETER, json_messages.CODEC_PARAMETER, json_messages.BINARY_SIZE]
    return found


def rest_request(tensors: Any) -> bytes:
    inputs = [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "data": [0] * math.prod(t.shape),
         "parameters": {"coinfer_codec": t.codec}}
        for t in tensors
    ]  # fmt: skip
    return json.dumps({"inputs": inputs}).encode()


def records_and_sidecars() -> Any:
    """A line of the run log, and what stands beside the shipped policy."""
    route = Route((Hop("device", ("pool1",), 8), Hop("e:1", ("logits",), 32)), 0, math.inf)
    outcome = Outcome(*np.arange(8) / 4, np.True_, np.False_)
    line = records.as_json(records.Record("planner", 3, 0.5, 1e6, route, "e:1", "", 0.25, 800.0, outcome))
    sidecar = load_policy("learned").sidecar
    training = {key: value for key, value in sidecar["training"].items() if key != "weights"}
    return {
        "line": line,
        "sidecar": {**{key: value for key, value in sidecar.items() if key != "training"}, "training": sha(training)},
        "weights": sha(sidecar["training"]["weights"]),
        "contract": list(CONTRACT),
    }


# Trainings


SMALL = ("tasks_per_slot=8", "slots=8", "arrivals.mean=0.3", "arrivals.variance=0.016", "links.placements=4")
STEPS = {
    "sac-d": 1280, "dqn": 1280, "cdo-dsac": 300, "cias-pno": 300, "cias-pno-joint": 300, "ddpg": 300, "online-rl": 300,
}  # fmt: skip
"""Schemes that were there before the packages were rearranged, and the length of their trainings."""


def trained(name: str) -> Any:
    """A short training by the name of the command line: every tensor that its checkpoint holds."""
    changes = () if name in ("sac-d", "dqn") else SMALL
    where = "sacd" if name in ("sac-d", "dqn") else "cdo-dsac"
    with TemporaryDirectory() as folder:
        settings = TrainSettings(where, changes, seeds=2, seed=3, steps=STEPS[name])
        found = registry.trainer(name)(settings, folder=Path(folder))
        (file,) = sorted(Path(folder).glob("checkpoints/*.safetensors"))[-1:]
        return {"weights": digests(load_file(file)), "curves": curves(found), **sidecar_of(name, found, where, changes)}


def sidecar_of(name: str, found: Any, where: str, changes: tuple[str, ...]) -> Any:
    """What an export says of a scheme that knows options by number; one export takes seconds."""
    if name != "dqn":
        return {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        export.export_best(found, open_world(where, parse_changes(changes)), path)
        sidecar = load_policy(path).sidecar
    kept = {key: sidecar[key] for key in ("format", "kind", "scheme", "sizes", "options", "fields")}
    return {"sidecar": sha(kept), "keys": sorted(sidecar)}


def curves(found: Any) -> dict[str, Any]:
    """Rewards met while learning and on held-out worlds."""
    points = [numbers(point.figures["reward"]) for point in (*found.points[-2:], *found.assessed[-2:])]
    return {"rounds": [point.round for point in (*found.points, *found.assessed)], "loose": points}


LOOPS: dict[str, Callable[[Any, Any], Any]] = {
    "cdo-dsac flat": lambda world, seeds: cdo_dsac.make_loop(replace(AGENTS, form="flat"), world, seeds),
    "cdo-dsac ranked": lambda world, seeds: cdo_dsac.make_loop(replace(AGENTS, form="ranked"), world, seeds),
    "cdo-dsac joint": lambda world, seeds: cdo_dsac.make_loop(replace(AGENTS, cuts="joint"), world, seeds),
    "cdo-dsac still": lambda world, seeds: cdo_dsac.make_loop(replace(AGENTS, running_queues=False), world, seeds),
    "ddpg flat": lambda world, seeds: ddpg.make_loop(
        replace(CENTRAL, form="flat", softmax_temperature=None), world, seeds
    ),
    "ddpg places": lambda world, seeds: ddpg.make_loop(CENTRAL, world, seeds),
    "online-rl running": lambda world, seeds: online_rl.make_loop(TABLE, world, seeds),
}
AGENTS = replace(
    cdo_dsac.PRESETS["quick"], agents=2, rounds=24, warmup=4, batch=8, memory=64, hidden=(16,), broadcast_every=5,
    judge_rounds=3, judge_worlds=2, assess_every=12,
)  # fmt: skip
CENTRAL = replace(ddpg.PRESETS["quick"], worlds=4, rounds=24, batch=8, memory=64, hidden=(16,), warmup=4)
TABLE = replace(online_rl.PRESETS["quick"], worlds=4, rounds=24, batch=8, memory=64, running_queues=True)


def looped(name: str) -> Any:
    """The same for forms that have no name on the command line."""
    world = open_world("cdo-dsac", parse_changes(SMALL)).world
    loop = LOOPS[name](world, torch.arange(2))
    while loop.round < loop.settings.rounds:
        loop.play()
    return {"weights": digests(loop.tensors()), "loose": numbers(loop.assessed[-1].figures["reward"])}


def evolved() -> Any:
    """The scorer, over two generations."""
    case = scorer_training.Case("cdo-dsac", dict(parse_changes(SMALL)), 2)
    found = scorer_training.train(scorer_training.Settings((case,), pairs=4, slots=6, generations=2, cases_at_once=1))
    return {"weights": digests({"weights": found.weights}), "loose": summary(found.weights)}


def exits_trained() -> Any:
    """Early exits, over two epochs."""
    pixels = (np.arange(40 * 32 * 32 * 3) * 7919 % 251).astype(np.uint8).reshape(40, 32, 32, 3)
    data = ImageDataset(pixels, np.arange(40) % 10, tuple("abcdefghij"), "made up")
    settings = ExitSettings(epochs=2, batch=20, holdout=0.1, precision="float32", learning_rate=0.02)
    found = exit_training.train(network("alexnet-cifar-exits"), data, settings)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in found.graph.weights.items()}
    return {"weights": digests(weights), "loose": numbers(epoch.loss for epoch in found.epochs)}


NETWORKS = [*zoo.ZOO, *exits.EXITS]
CASES: dict[str, Callable[[], Any]] = {
    **{f"decisions {name}": partial(decisions, name) for kind in KINDS.values() for name in kind},
    **{f"episodes {name}": partial(episodes, name) for kind in KINDS.values() for name in kind},
    "decisions droo": frames,
    "bounds": bounds,
    **{f"scenario {name}": partial(scenario, name) for name in PRESETS if name not in SCENARIOS},
    **{f"network {name}": partial(cuts_and_answers, name) for name in NETWORKS},
    **{f"options {name}": partial(option_table, name) for name in NETWORKS},
    **{f"partitions {name}": partial(partitions, name) for name in NETWORKS},
    "payloads": payloads,
    "messages": messages,
    "records": records_and_sidecars,
    **{f"training {name}": partial(trained, name) for name in STEPS},
    **{f"training {name}": partial(looped, name) for name in LOOPS},
    "training scorer": evolved,
    "training exits": exits_trained,
}


def of(case: str) -> Any:
    """The figures of a case as JSON has them: on one thread, with the package's own data only."""
    threads, elsewhere = torch.get_num_threads(), os.environ.pop("COINFER_DATA", None)
    torch.set_num_threads(1)
    try:
        return json.loads(json.dumps(CASES[case]()))
    finally:
        torch.set_num_threads(threads)
        if elsewhere is not None:
            os.environ["COINFER_DATA"] = elsewhere


def main() -> None:
    told = {"machine": machine(), "cases": {}}
    for case in CASES:
        told["cases"][case] = of(case)
    lines = [f'  "{case}": {json.dumps(value)}' for case, value in told["cases"].items()]
    text = f'{{\n "machine": {json.dumps(told["machine"])},\n "cases": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
