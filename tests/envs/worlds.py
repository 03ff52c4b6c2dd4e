"""Random scenarios for the tests of the environments."""

import numpy as np

from coinfer.scenario.serving import Serving
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld


def poisson_cdf(mean: float, tasks: int) -> np.ndarray:
    """[K] probability of at most 0 .. K - 1 tasks."""
    terms = np.cumprod(np.concatenate(([1.0], mean / np.arange(1, tasks + 1))))[:tasks]
    return np.minimum(np.cumsum(terms) * np.exp(-mean), 1.0)


def random_edge(rng: np.random.Generator, **changes: object) -> Edge:
    """A busy edge with everything that a scenario can have; `changes` replace fields."""
    servers, classes, models = int(rng.integers(1, 5)), int(rng.integers(1, 3)), int(rng.integers(1, 4))
    tasks = int(rng.integers(1, 9))
    devices, slots = int(rng.integers(1, 9)), int(rng.integers(3, 9))
    share = rng.uniform(0.3, 1.0, (3, int(rng.integers(slots, 20))))
    least_s = rng.uniform(0.1, 2.0, (models, classes))
    edge = Edge(
        slots=slots,
        slot_s=float(rng.uniform(0.2, 1.0)),
        tasks=tasks,
        distinct_devices=bool(rng.random() < 0.3 and tasks <= devices),
        device_class=rng.integers(0, classes, devices),
        model_cdf=np.append(np.sort(rng.random(models - 1)), 1.0),
        arrival_cdf=np.stack([poisson_cdf(mean, tasks) for mean in rng.uniform(0.5, tasks, 2)]),
        arrival_state=rng.integers(0, 2, (2, 11)),
        deadline_s=np.stack((least_s, least_s * rng.uniform(1, 2)), axis=-1),
        device_factor=rng.uniform(0.8, 1.2, int(rng.integers(1, 6))),
        server_factor=rng.uniform(0.8, 1.2, int(rng.integers(1, 6))),
        mean_link=rng.uniform(0.5, 2.0, (2, devices, servers)),
        link_bank=np.where(rng.random((4, 12)) < 0.1, 0.0, rng.uniform(0.2, 2.0, (4, 12))),
        bandwidth_hz=float(rng.uniform(0.5, 2.0)) if rng.random() < 0.5 else None,
        shared_bandwidth=bool(rng.random() < 0.5),
        rate_error=rng.uniform(0.8, 1.2, int(rng.integers(1, 5))),
        transmit_power_w=rng.uniform(0.05, 0.5, classes),
        server_capacity=np.where(rng.random(servers) < 0.3, np.inf, rng.integers(0, 7, servers)),
        share_bank=np.where(rng.random(share.shape) < 0.2, 0.0, share),
        staleness_slots=int(rng.integers(0, 4)),
        download_s=rng.uniform(0, 0.1, servers),
        drop_refused=bool(rng.random() < 0.3),
        task_energy_j=np.where(rng.random(classes) < 0.5, np.inf, rng.uniform(0.2, 1.0, classes)),
        battery_j=np.where(rng.random(classes) < 0.5, np.inf, rng.uniform(0.5, 4.0, classes)),
        one_path=bool(rng.random() < 0.2),
    )
    return edge._replace(**changes)


def random_world(rng: np.random.Generator, **changes: object) -> OffloadWorld:
    """An `offload` scenario on a random edge; `changes` replace fields of the edge."""
    edge = random_edge(rng, **changes)
    options = int(rng.integers(2, 5))
    shape = (edge.models, edge.classes, options)
    mask = rng.random(shape) < 0.85
    mask[..., -1] = True
    bits = rng.uniform(0.1, 1.0, shape)
    bits[..., -1] = 0.0
    return OffloadWorld(
        name="random",
        edge=edge,
        option_device_s=rng.uniform(0.01, 0.4, shape) * mask,
        option_upload_bits=bits * mask,
        option_server_s=rng.uniform(0.05, 0.5, (*shape, edge.servers)) * mask[..., None],
        option_accuracy=rng.uniform(0.5, 1.0, shape) * mask,
        option_device_j=rng.uniform(0.05, 0.4, shape) * mask,
        option_mask=mask,
        local_option=np.full(shape[:2], options - 1),
    )


def random_blocks(rng: np.random.Generator, **changes: object) -> BlocksWorld:
    """A `blocks` scenario on a random edge; `changes` replace fields of the edge."""
    edge = random_edge(rng, **changes)
    edge = edge._replace(server_capacity=np.full(edge.servers, np.inf))
    blocks = int(rng.integers(1, 5))
    mask = np.arange(blocks) < rng.integers(1, blocks + 1, edge.models)[:, None]
    return BlocksWorld(
        name="random blocks",
        edge=edge,
        block_device_s=rng.uniform(0.05, 0.4, (edge.models, edge.classes, blocks)) * mask[:, None],
        block_server_s=rng.uniform(0.02, 0.3, (edge.models, blocks, edge.servers)) * mask[..., None],
        block_input_bits=rng.uniform(0.05, 0.5, (edge.models, blocks)) * mask,
        block_device_j=rng.uniform(0.02, 0.2, (edge.models, edge.classes, blocks)) * mask[:, None],
        block_mask=mask,
        accuracy=rng.uniform(0.5, 1.0, edge.models),
        backhaul_bps=float(rng.uniform(1.0, 5.0)),
        block_deadlines=bool(rng.random() < 0.5),
    )


def serving_world(rng: np.random.Generator, world: OffloadWorld, loads: bool, hurried: bool = False) -> OffloadWorld:
    """The same world with servers that batch and, if `loads`, hold few networks; a crowded one if `hurried`."""
    edge, shape = world.edge, world.option_mask.shape
    models, servers = edge.models, edge.servers
    pieces = models * 2
    gain = rng.uniform(0.2, 1.1, (models, servers, 4))
    ratio = np.cumsum(np.concatenate((np.ones((models, servers, 1)), gain), axis=-1), axis=-1)
    limit = rng.integers(1, 6, (models, servers, 1))
    size_bytes = rng.uniform(0.5, 1.0, models)
    edge = edge._replace(
        server_capacity=rng.integers(1, 12, servers).astype(float),
        deadline_s=edge.deadline_s if hurried else np.full_like(edge.deadline_s, 1e6),
        arrival_cdf=np.zeros_like(edge.arrival_cdf) if hurried else edge.arrival_cdf,
    )
    serving = Serving(
        option_piece=2 * np.arange(models)[:, None, None] + rng.integers(0, 2, shape),
        piece_network=np.arange(pieces) // 2,
        batch_ratio=np.where(np.arange(5) < limit, ratio, np.inf),
        memory_bytes=rng.uniform(0.5, 2.0, servers) if loads else np.full(servers, np.inf),
        network_bytes=size_bytes,
        load_s=rng.uniform(0.05, 1.0, (models, servers)),
    )
    return world._replace(edge=edge, serving=serving)
