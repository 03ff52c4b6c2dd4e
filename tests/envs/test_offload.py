"""The vectorised environment against its event-driven reference, and what must hold of any world."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import poisson_cdf, random_world

from coinfer.envs import exogenous, offload, rewards
from coinfer.envs.reference import offload as reference
from coinfer.scenario.world import Edge, OffloadWorld
from coinfer.types import DEVICE, OffloadDecision

SEEDS = st.integers(0, 2**32 - 1)


def decisions(rng: np.random.Generator, world: OffloadWorld) -> list[OffloadDecision]:
    """One row of random decisions for each slot, some of them impossible."""
    shape = (world.edge.slots, world.edge.tasks)
    option, server = rng.integers(0, world.options + 1, shape), rng.integers(-2, world.edge.servers + 1, shape)
    return [OffloadDecision(torch.tensor(option[[t]]), torch.tensor(server[[t]])) for t in range(world.edge.slots)]


def everywhere(decision: OffloadDecision, worlds: int) -> OffloadDecision:
    return OffloadDecision(*(field.expand(worlds, -1) for field in decision))


def without_thresholds(world: OffloadWorld) -> OffloadWorld:
    """The same with neither capacity nor limits of energy."""
    unlimited, everybody = np.full(world.edge.classes, np.inf), np.full(world.edge.servers, np.inf)
    edge = world.edge._replace(task_energy_j=unlimited, battery_j=unlimited, server_capacity=everybody)
    return world._replace(edge=edge)


def rollout(world: OffloadWorld, seeds: torch.Tensor, decided: list[OffloadDecision], dtype=torch.float64) -> list:
    """(observation, step) of each slot."""
    tables = offload.load(world, dtype=dtype)
    state, found = offload.reset(tables, seeds), []
    for decision in decided:
        seen = offload.observe(tables, state)
        step = offload.step(tables, state, everywhere(decision, len(seeds)), rewards.latency)
        found.append((seen, step))
        state = step.state
    return found


def busy_radios(world: OffloadWorld) -> OffloadWorld:
    """The same with uploads that outlast slots, and, if there are enough of them, devices with one task each."""
    edge = world.edge
    apart = edge.tasks <= edge.devices
    return world._replace(edge=edge._replace(mean_link=0.15 * edge.mean_link, distinct_devices=apart))


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.booleans())
def test_equals_the_event_driven_reference(seed, radios_are_busy):
    """Queues, capacity, staleness, outages, dead links, sharing, limits of energy, losses: all that can be."""
    rng = np.random.default_rng(seed)
    world = busy_radios(random_world(rng)) if radios_are_busy else random_world(rng)
    decided = decisions(rng, world)
    slots = reference.draw_episode(world, seed)
    episode = reference.run(world, slots, lambda t, k: (int(decided[t].option[0, k]), int(decided[t].server[0, k])))
    for t, (seen, step) in enumerate(rollout(world, torch.tensor([seed]), decided)):
        assert set(episode.outcomes[t]) == set(seen.task_mask[0].nonzero().flatten().tolist())
        for k, outcome in episode.outcomes[t].items():
            found = [float(field[0, k]) for field in step.outcome]
            assert found == pytest.approx([float(value) for value in outcome], rel=1e-6, abs=1e-9)
        known = episode.reported[max(0, t - world.edge.staleness_slots)]
        assert seen.server_room[0].tolist() == pytest.approx(known.server_room)
        if t >= world.edge.staleness_slots:
            assert seen.server_backlog_s[0].tolist() == pytest.approx(known.server_backlog_s, rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_world_does_not_depend_on_its_batch(seed):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    decided = decisions(rng, world)
    seeds = torch.tensor(rng.integers(0, 2**62, 9))
    many, alone = rollout(world, seeds, decided, torch.float32), rollout(world, seeds[4:5], decided, torch.float32)
    for (seen, step), (seen_alone, step_alone) in zip(many, alone, strict=True):
        for field, field_alone in zip((*seen, *step.outcome), (*seen_alone, *step_alone.outcome), strict=True):
            assert field[4:5].equal(field_alone)
        assert torch.allclose(step.reward[4:5], step_alone.reward)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_number_types_draw_the_same_chance_and_agree(seed):
    rng = np.random.default_rng(seed)
    world = without_thresholds(random_world(rng))
    decided, seeds = decisions(rng, world), torch.arange(5)
    wide, narrow = rollout(world, seeds, decided), rollout(world, seeds, decided, torch.float32)
    for (_, step), (_, step_narrow) in zip(wide, narrow, strict=True):
        assert step.state.draws.device.equal(step_narrow.state.draws.device)
        assert step.state.draws.task_mask.equal(step_narrow.state.draws.task_mask)
        assert torch.allclose(step.outcome.latency_s.float(), step_narrow.outcome.latency_s, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_permuted_servers_permute_what_becomes_of_them(seed):
    rng = np.random.default_rng(seed)
    still = {"link_bank": np.ones((1, 1)), "share_bank": np.ones((1, 1)), "rate_error": np.ones(1)}
    world = random_world(rng, **still)
    servers = world.edge.servers
    order = rng.permutation(servers)
    edge = world.edge._replace(
        mean_link=world.edge.mean_link[..., order],
        server_capacity=world.edge.server_capacity[order],
        download_s=world.edge.download_s[order],
    )
    permuted = world._replace(edge=edge, option_server_s=world.option_server_s[..., order])
    decided = decisions(rng, world)
    where = torch.tensor(np.append(np.argsort(order), [servers, -2, -1]))
    moved = [d._replace(server=where[d.server]) for d in decided]
    before, after = rollout(world, torch.arange(3), decided), rollout(permuted, torch.arange(3), moved)
    for (seen, step), (seen_after, step_after) in zip(before, after, strict=True):
        assert all(map(torch.equal, step.outcome, step_after.outcome))
        assert seen.server_backlog_s[:, order].equal(seen_after.server_backlog_s)
        assert step.info.server_tasks[:, order].equal(step_after.info.server_tasks)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_the_mask_is_what_a_step_accepts(seed):
    """With room for everybody, an option is masked exactly where every server and the device refuse it."""
    rng = np.random.default_rng(seed)
    pair = {"tasks": 2, "arrival_cdf": np.zeros((1, 2)), "arrival_state": np.zeros((1, 1), int)}
    world = random_world(rng, **pair, distinct_devices=False)
    edge = world.edge._replace(
        server_capacity=np.full(world.edge.servers, np.inf), share_bank=np.ones((1, 1)), drop_refused=False
    )
    world = world._replace(edge=edge)
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, torch.arange(6))
    mask = offload.observe(tables, state).option_mask
    accepted = torch.zeros_like(mask)
    for option in range(world.options):
        for server in range(-1, world.edge.servers):
            same = torch.ones_like(state.draws.device)
            served = offload.serve(tables, state, OffloadDecision(option * same, server * same))
            accepted[..., option] |= ~served.refused
    assert accepted.equal(mask)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_nothing_is_offered_where_there_is_no_task(seed):
    rng = np.random.default_rng(seed)
    world = random_world(rng, arrival_cdf=np.full((2, 4), 0.5), tasks=4, distinct_devices=False)
    for seen, _ in rollout(world, torch.arange(20), decisions(rng, world)):
        assert not seen.task_mask.all()
        assert not seen.option_mask[~seen.task_mask].any()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_nothing_is_lost_or_counted_twice(seed):
    """Tasks in = answered + lost; taken on by servers = inside + done; inside never above capacity; energy adds up."""
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    capacity = torch.tensor(world.edge.server_capacity)
    spent_j = 0.0
    decided = decisions(rng, world)
    for t, (seen, step) in enumerate(rollout(world, torch.arange(20), decided)):
        outcome, info = step.outcome, step.info
        answered = seen.task_mask & ~info.dropped
        assert (info.dropped <= seen.task_mask).all()
        assert (outcome.admitted == (seen.task_mask & ~info.refused)).all()
        assert ((outcome.latency_s > 0) | ~answered).all()
        assert (outcome.in_time <= answered).all()
        assert info.server_tasks.sum(-1).equal((outcome.server_s > 0).sum(-1))
        assert torch.allclose(info.server_work_s.sum(-1), outcome.server_s.sum(-1))
        assert ((step.state.unfinished_s > 0).sum(-1) <= capacity).all()
        parts = outcome.device_s + outcome.upload_s + outcome.queue_s + outcome.server_s + outcome.download_s
        assert torch.allclose(parts, outcome.latency_s)
        assert step.info.truncated.all() == (t == world.edge.slots - 1)
        spent_j = spent_j + outcome.energy_j.sum(-1)
        if step.state.spent_j.shape[1]:
            assert torch.allclose(step.state.spent_j.sum(-1), spent_j)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_work_in_is_work_done_and_backlog(seed):
    """Where everything is at the servers at once, so that they rest only when nothing waits."""
    rng = np.random.default_rng(seed)
    world = random_world(rng, bandwidth_hz=None)
    edge = world.edge._replace(mean_link=world.edge.mean_link * 1e12)
    world = world._replace(edge=edge, option_device_s=np.zeros_like(world.option_device_s))
    before_s = torch.zeros(20, edge.servers, dtype=torch.float64)
    for _, step in rollout(world, torch.arange(20), decisions(rng, world)):
        done_s = before_s + step.info.server_work_s - step.state.server_backlog_s
        assert ((done_s >= -1e-9) & (done_s <= edge.slot_s + 1e-9)).all()
        assert ((done_s >= edge.slot_s - 1e-9) | (step.state.server_backlog_s == 0)).all()
        before_s = step.state.server_backlog_s


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(1.0, 10.0))
def test_more_bandwidth_never_makes_a_lone_task_slower(seed, factor):
    """One task a slot and a fixed decision. (With several, a faster upload may overtake another task's.)"""
    rng = np.random.default_rng(seed)
    alone = {"tasks": 1, "arrival_cdf": np.zeros((1, 1)), "arrival_state": np.zeros((1, 1), int)}
    world = without_thresholds(random_world(rng, **alone, distinct_devices=False, bandwidth_hz=None))
    faster = world._replace(edge=world.edge._replace(mean_link=world.edge.mean_link * factor))
    decided = decisions(rng, world)
    slow = rollout(world, torch.arange(10), decided)
    fast = rollout(faster, torch.arange(10), decided)
    for (_, step), (_, sooner) in zip(slow, fast, strict=True):
        assert (sooner.outcome.latency_s <= step.outcome.latency_s + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(1.0, 10.0))
def test_more_bandwidth_never_keeps_radios_or_servers_busy_longer(seed, factor):
    rng = np.random.default_rng(seed)
    world = without_thresholds(random_world(rng, bandwidth_hz=None))
    faster = world._replace(edge=world.edge._replace(mean_link=world.edge.mean_link * factor))
    decided = decisions(rng, world)
    slow = rollout(world, torch.arange(10), decided)
    fast = rollout(faster, torch.arange(10), decided)
    for (_, step), (_, sooner) in zip(slow, fast, strict=True):
        assert (sooner.state.uplink_backlog_s <= step.state.uplink_backlog_s + 1e-9).all()
        assert (sooner.state.server_backlog_s <= step.state.server_backlog_s + 1e-9).all()


def one_server(mean: float, tasks: int = 24) -> OffloadWorld:
    """Poisson arrivals, one task of work a slot, nothing but the server matters."""
    edge = Edge(
        slots=400,
        slot_s=1.0,
        tasks=tasks,
        distinct_devices=False,
        device_class=np.zeros(50, int),
        model_cdf=np.ones(1),
        arrival_cdf=poisson_cdf(mean, tasks)[None],
        arrival_state=np.zeros((1, 1), int),
        deadline_s=np.full((1, 1, 2), np.inf),
        device_factor=np.ones(1),
        server_factor=np.ones(1),
        mean_link=np.full((1, 50, 1), 1e9),
        link_bank=np.ones((1, 1)),
        bandwidth_hz=None,
        shared_bandwidth=False,
        rate_error=np.ones(1),
        transmit_power_w=np.zeros(1),
        server_capacity=np.full(1, np.inf),
        share_bank=np.ones((1, 1)),
        staleness_slots=0,
        download_s=np.zeros(1),
        drop_refused=False,
        task_energy_j=np.full(1, np.inf),
        battery_j=np.full(1, np.inf),
    )
    return OffloadWorld(
        name="one server",
        edge=edge,
        option_device_s=np.array([[[0.0, 9.0]]]),
        option_upload_bits=np.array([[[1.0, 0.0]]]),
        option_server_s=np.array([[[[1.0], [0.0]]]]),
        option_accuracy=np.ones((1, 1, 2)),
        option_device_j=np.zeros((1, 1, 2)),
        option_mask=np.ones((1, 1, 2), bool),
        local_option=np.ones((1, 1), int),
    )


@pytest.mark.parametrize("load", [0.4, 0.8])
def test_a_slotted_m_d_1_queue_waits_as_the_closed_form_says(load):
    """Poisson batches at the beginnings of slots, one service a slot: mean wait load / (2 (1 - load)) slots."""
    world, worlds, warm_up = one_server(load), 300, 100
    tables = offload.load(world)
    state = offload.reset(tables, torch.arange(worlds))
    decision = OffloadDecision(torch.zeros(worlds, 24, dtype=torch.int64), torch.zeros(worlds, 24, dtype=torch.int64))
    waited_s, tasks = torch.zeros(worlds), torch.zeros(worlds)
    for t in range(world.edge.slots):
        mask = state.draws.task_mask
        before_s = state.server_backlog_s[:, 0]
        state, outcome, _, info = offload.step(tables, state, decision, rewards.latency)
        left_s = (before_s + info.server_work_s[:, 0] - world.edge.slot_s).clamp(min=0)
        assert torch.allclose(state.server_backlog_s[:, 0], left_s, atol=1e-4)
        if t >= warm_up:
            waited_s += (outcome.queue_s * mask).sum(-1)
            tasks += mask.sum(-1)
    mean_s, wanted_s = (waited_s.sum() / tasks.sum()).item(), load / (2 * (1 - load))
    spread_s = (waited_s - mean_s * tasks) / tasks.mean()
    half_width_s = 3.3 * spread_s.std().item() / worlds**0.5
    assert abs(mean_s - wanted_s) < half_width_s < 0.1 * wanted_s


def test_arrivals_have_the_scenarios_mean():
    tables = exogenous.load_edge(one_server(2.5), "cpu", torch.float32)
    count = (
        exogenous.draw(tables, torch.arange(40_000), torch.zeros(40_000, dtype=torch.int64)).task_mask.sum(-1).float()
    )
    assert abs(count.mean().item() - 2.5) < 4 * (2.5 / 40_000) ** 0.5
    assert abs(count.var().item() - 2.5) < 0.1


def test_links_follow_their_bank_each_for_itself():
    """Every link has the bank's mean and spread; links of a device, and of two devices, do not go together."""
    rng = np.random.default_rng(2)
    bank = rng.exponential(1.0, (64, 200))
    edge = one_server(24.0).edge._replace(
        slots=20,
        mean_link=np.full((1, 50, 4), 3.0),
        link_bank=bank,
        server_capacity=np.full(4, np.inf),
        download_s=np.zeros(4),
    )
    world = one_server(24.0)._replace(edge=edge, option_server_s=np.ones((1, 1, 2, 4)))
    tables = exogenous.load_edge(world, "cpu", torch.float64)
    seeds = torch.arange(3000)
    draws = [exogenous.draw(tables, seeds, torch.full_like(seeds, slot)) for slot in (0, 19)]
    other = draws[0].device[:, 0] != draws[0].device[:, 1]
    link = draws[0].link_bps[other, :2].flatten(1) / 3.0
    error = 5 / link.shape[0] ** 0.5
    assert torch.allclose(link.mean(0), torch.tensor(bank.mean()), atol=error)
    assert torch.allclose(link.std(0), torch.tensor(bank.std()), atol=3 * error)
    assert (torch.corrcoef(link.T) - torch.eye(8)).abs().max() < error
    same = {float(value) for value in draws[1].link_bps.flatten()[:50] / 3.0}
    assert all(np.isclose(bank, value).any() for value in same)
    mobile = exogenous.load_edge(world._replace(edge=edge._replace(one_path=True)), "cpu", torch.float64)
    assert (exogenous.draw(mobile, seeds, seeds * 0).link_bps.std(-1) == 0).all()


def test_what_is_believed_of_links_errs_link_by_link_as_the_scenario_says():
    """Each error as often as the others, for each link and slot anew; what is seen is what is believed."""
    errors = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    edge = one_server(24.0).edge._replace(
        rate_error=errors.numpy(),
        mean_link=np.full((1, 50, 4), 3.0),
        server_capacity=np.full(4, np.inf),
        download_s=np.zeros(4),
    )
    world = one_server(24.0)._replace(edge=edge, option_server_s=np.ones((1, 1, 2, 4)))
    tables, seeds = offload.load(world, dtype=torch.float64), torch.arange(3000)
    state = offload.reset(tables, seeds)
    found = state.draws.believed_bps / state.draws.link_bps
    which = found[..., None].sub(errors).abs().argmin(-1)
    torch.testing.assert_close(found, errors[which])
    bound = 5 / len(seeds) ** 0.5
    assert torch.allclose(which[:, 0, 0].bincount() / len(seeds), torch.tensor(0.25), atol=bound)
    assert (torch.corrcoef(which[:, :2].flatten(1).double().T) - torch.eye(8)).abs().max() < bound
    later = exogenous.draw(tables.edge, seeds, torch.ones_like(seeds))
    assert 0.2 < (later.believed_bps / later.link_bps == found).double().mean() < 0.3
    torch.testing.assert_close(offload.observe(tables, state).uplink_bps, state.draws.believed_bps)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 3))
def test_the_share_of_a_server_is_seen_as_old_as_the_rest(seed, age):
    """Times on servers are those at the share that a server had so many slots ago, at first that of the first slot."""
    rng = np.random.default_rng(seed)
    world = random_world(rng, staleness_slots=age, share_bank=rng.uniform(0.2, 1.0, (3, 30)))
    tables, seeds = offload.load(world, dtype=torch.float64), torch.arange(5)
    shares = [exogenous.server_share(tables.edge, seeds, torch.full_like(seeds, t)) for t in range(world.edge.slots)]
    state = offload.reset(tables, seeds)
    for t, decision in enumerate(decisions(rng, world)):
        seen = offload.observe(tables, state)
        kind = state.draws.model * world.edge.classes + state.draws.device_class
        expected = tables.server_s[kind] / shares[max(0, t - age)][:, None, None]
        torch.testing.assert_close(seen.option_server_s, expected)
        state = offload.step(tables, state, everywhere(decision, 5), rewards.latency).state
    assert not torch.equal(shares[0], shares[-1])


def test_deadlines_are_spread_evenly_from_the_least_to_the_greatest():
    """For each network and class of devices its own."""
    least_s, greatest_s = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([1.5, 2.0, 4.0])
    world = one_server(24.0)
    edge = world.edge._replace(
        model_cdf=np.array([1 / 3, 2 / 3, 1.0]), deadline_s=torch.stack((least_s, greatest_s), -1).numpy()[:, None]
    )
    columns = {f"option_{name}": getattr(world, f"option_{name}").repeat(3, 0) for name in (
        "device_s", "upload_bits", "server_s", "accuracy", "device_j", "mask"
    )}  # fmt: skip
    many = world._replace(edge=edge, local_option=world.local_option.repeat(3, 0), **columns)
    state = offload.reset(offload.load(many), torch.arange(2000))
    draws = state.draws
    for model in range(3):
        found_s = draws.deadline_s[draws.model == model]
        assert len(found_s) > 5000
        assert least_s[model] <= found_s.min()
        assert found_s.max() <= greatest_s[model]
        steps = torch.linspace(float(least_s[model]), float(greatest_s[model]), 9)[1:-1]
        below = (found_s[:, None] <= steps).float().mean(0)
        expected = torch.linspace(0, 1, 9)[1:-1] if model != 1 else torch.ones(7)
        torch.testing.assert_close(below, expected, atol=0.03, rtol=0)


def links_of(draws: exogenous.Draws, world: int) -> list[tuple[int, float]]:
    """(device, rate) of each task of a world with one server."""
    return list(zip(draws.device[world].tolist(), draws.link_bps[world, :, 0].tolist(), strict=True))


def test_a_path_goes_on_slot_after_slot():
    """A bank that counts the slots: a link's value grows by one a slot, and each world starts where it likes."""
    bank = np.arange(1, 101.0)[None]
    world = one_server(24.0)
    world = world._replace(edge=world.edge._replace(slots=60, link_bank=bank, mean_link=np.ones((1, 50, 1))))
    tables = exogenous.load_edge(world, "cpu", torch.float64)
    seeds = torch.arange(50)
    first = exogenous.draw(tables, seeds, torch.zeros_like(seeds))
    later = exogenous.draw(tables, seeds, torch.full_like(seeds, 60))
    begun = {(w, d): bps for w in range(50) for d, bps in links_of(first, w)}
    pairs = [(begun[w, d], bps) for w in range(50) for d, bps in links_of(later, w) if (w, d) in begun]
    assert len(pairs) > 100
    assert all(after == before + 60 for before, after in pairs)
    assert len({before for before, _ in pairs}) > 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("seed", range(5))
def test_a_gpu_gives_the_same_worlds(seed):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    decided, seeds = decisions(rng, world), torch.arange(50)
    tables = offload.load(world, "cuda", torch.float64)
    state = offload.reset(tables, seeds)
    for (seen, step), decision in zip(rollout(world, seeds, decided), decided, strict=True):
        there = offload.observe(tables, state)
        moved = OffloadDecision(*(field.cuda() for field in everywhere(decision, len(seeds))))
        step_there = offload.step(tables, state, moved, rewards.latency)
        for ours, theirs in zip((*seen, *step.outcome), (*there, *step_there.outcome), strict=True):
            assert torch.allclose(ours.double(), theirs.cpu().double(), rtol=1e-9)
        state = step_there.state


def test_decisions_out_of_range_are_refused_and_done_by_the_device():
    tables = offload.load(one_server(24.0))
    state = offload.reset(tables, torch.arange(4))
    option = torch.zeros(4, 24, dtype=torch.int64)
    for wrong in ((option, option + DEVICE), (option, option + 1), (option + 2, option)):
        served = offload.serve(tables, state, OffloadDecision(*wrong))
        assert served.refused.equal(state.draws.task_mask)
        assert served.outcome.device_s[state.draws.task_mask].min() >= 9.0


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_orders_of_service_agree_where_no_upload_outlasts_its_slot(seed):
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    edge = world.edge._replace(mean_link=world.edge.mean_link * 1e9, link_bank=np.ones((1, 1)), slot_s=10.0)
    world = world._replace(edge=edge)
    decided, slots = decisions(rng, world), reference.draw_episode(world, seed)

    def decide(t: int, k: int) -> tuple[int, int]:
        return int(decided[t].option[0, k]), int(decided[t].server[0, k])

    by_slot, by_arrival = (reference.run(world, slots, decide, arrival_order=order) for order in (False, True))
    for one, other in zip(by_slot.outcomes, by_arrival.outcomes, strict=True):
        for k, outcome in one.items():
            assert list(map(float, outcome)) == pytest.approx(list(map(float, other[k])), rel=1e-9, abs=1e-9)


def test_in_arrival_order_a_late_upload_holds_nobody_up():
    """The first task uploads for 3 slots of 1 s; the second, a slot later, at once. Each takes 1 s on the server."""
    world = one_server(24.0, tasks=1)
    world = world._replace(edge=world.edge._replace(slots=2))
    task = reference.Task(0, 0, 0, 0, np.inf, 1.0, 1.0, (1 / 3,))
    slots = [reference.Slot((task,), (1.0,)), reference.Slot((task._replace(device=1, link_bps=(1e9,)),), (1.0,))]
    by_slot = reference.run(world, slots, lambda t, k: (0, 0))
    by_arrival = reference.run(world, slots, lambda t, k: (0, 0), arrival_order=True)
    assert [slot[0].latency_s for slot in by_slot.outcomes] == pytest.approx([4.0, 4.0])
    assert [slot[0].latency_s for slot in by_arrival.outcomes] == pytest.approx([4.0, 1.0])
    assert by_slot.served == by_arrival.served == [2]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_what_a_policy_sees_does_not_depend_on_true_rates(seed):
    """Rates are believed, with errors: which links really carry how much shows in the outcome only."""
    rng = np.random.default_rng(seed)
    world = random_world(rng, rate_error=rng.uniform(0.3, 3.0, 5))
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, torch.tensor([seed]))
    true_bps = torch.as_tensor(rng.uniform(-0.5, 2.0, state.draws.link_bps.shape).clip(0))
    other = state._replace(draws=state.draws._replace(link_bps=true_bps))
    for mine, theirs in zip(offload.observe(tables, state), offload.observe(tables, other), strict=True):
        assert torch.equal(mine, theirs)


def test_what_only_believed_rates_allow_is_seen_as_allowed_and_refused_when_it_is_tried():
    """Energy for 1 s of sending; 2 bits at a believed rate of 4 bits a second would do, at the true rate of 1 not."""
    world = random_world(np.random.default_rng(0), rate_error=np.array([4.0]))
    edge, limits = world.edge, np.full(world.edge.classes, 1.0)
    edge = edge._replace(
        task_energy_j=limits, transmit_power_w=limits, battery_j=np.full(edge.classes, np.inf), bandwidth_hz=None,
        mean_link=np.ones_like(edge.mean_link), link_bank=np.ones((1, 1)),
        server_capacity=np.full(edge.servers, np.inf), share_bank=np.ones((1, 1)), staleness_slots=0,
    )  # fmt: skip
    bits = np.where(world.option_upload_bits > 0, 2.0, 0.0)
    world = world._replace(edge=edge, option_upload_bits=bits, option_device_j=np.zeros_like(bits))
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, torch.arange(20))
    seen = offload.observe(tables, state)
    sends = seen.option_mask & (seen.option_upload_bits > 0)
    tried = sends.any(-1) & seen.task_mask
    assert tried.any()
    served = offload.serve(tables, state, OffloadDecision(sends.int().argmax(-1), torch.zeros_like(tried, dtype=int)))
    assert served.refused[tried].all()
