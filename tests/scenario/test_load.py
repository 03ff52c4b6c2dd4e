import re
import string
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.scenario.worlds import SMALL

from coinfer.errors import ScenarioError, UserError
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import PRESETS, load, parse_changes, preset_text, read
from coinfer.scenario.tables import shipped_networks


def broken(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


def message(text: str) -> str:
    with pytest.raises(ScenarioError) as raised:
        compile_scenario(read(text, "my.yaml"))
    return str(raised.value)


NETWORKS = ", ".join(shipped_networks())
MISTAKES = {
    ("slot_s: 0.5", "slot_s: 0"): "my.yaml:4: slot_s: got 0, expected a number above 0 and at most 1e+06 (seconds)",
    ("slot_s: 0.5", "slot_s: '0.5'"): (
        "my.yaml:4: slot_s: got '0.5', expected a number above 0 and at most 1e+06 (seconds)"
    ),
    ("slot_s: 0.5", "slot_s:"): "my.yaml:4: slot_s: got nothing, expected a number above 0 and at most 1e+06 (seconds)",
    ("slot_s: 0.5\n", ""): "my.yaml:1: slot_s: missing; this key is needed",
    ("slot_s: 0.5", "slots_s: 0.5"): "my.yaml:4: slots_s: unknown key; did you mean slot_s?",
    ("slots: 20", "slots: 20.5"): "my.yaml:5: slots: got 20.5, expected a whole number from 1 to 1000000",
    ("slots: 20", "slots: true"): "my.yaml:5: slots: got true, expected a whole number from 1 to 1000000",
    ("slots: 20", "slots: .inf"): "my.yaml:5: slots: got inf, expected a whole number from 1 to 1000000",
    ("slots: 20", "slots: 20\nslots: 30"): "my.yaml:6: key 'slots' stands here twice",
    ("slots: 20", "slots: *twenty"): "my.yaml:5: aliases (*) are not read here; write the values out",
    ("slots: 20", "slots: !!python/tuple [1]"): (
        "my.yaml:5: tag 'tag:yaml.org,2002:python/tuple' is not read here; write a plain value"
    ),
    ("slots: 20", "slots: [20"): "my.yaml:6: not YAML: \"expected ',' or ']', but got ':'\", in what begins on line 5",
    ("environment: offload", "environment: cloud"): (
        "my.yaml:1: environment is 'cloud', expected one of offload, blocks, wireless-power"
    ),
    ("kind: poisson", "kind: poison"): (
        "my.yaml:7: arrivals: kind is 'poison', expected one of poisson, lognormal, fixed, measured, markov, recorded"
    ),
    ("kind: poisson, ", ""): "my.yaml:7: arrivals: kind is missing; it says which kind this is",
    ("{kind: poisson, rate_per_s: 4}", "4"): "my.yaml:7: arrivals: got 4, expected a mapping",
    ("rate_per_s: 4", "rate_per_s: -4"): (
        "my.yaml:7: arrivals.rate_per_s: got -4, expected a number above 0 and at most 1e+09 (requests per second)"
    ),
    ("rate_per_s: 4", "rate_per_s: 40"): (
        "my.yaml:6: tasks_per_slot: got 12, but 40.2% of 20 requests a slot would find no place; 32 is enough"
    ),
    ("network: alexnet", "network: lenet"): (
        "my.yaml:9: models[0].network: no network 'lenet'; expected a .json file or one of " + NETWORKS
    ),
    ("network: alexnet", "network: my.onnx"): (
        "my.yaml:9: models[0].network: 'my.onnx' is a network without its costs; `coinfer scenario profile my.onnx -o "
        "FILE.json` measures it"
    ),
    ("bits: [8, 32]", "bits: [8, 7]"): (
        "my.yaml:10: models[0].bits[1]: got 7, expected one of 32, 16, 12, 8, 4 bits per element"
    ),
    ("bits: [8, 32]", "bits: []"): (
        "my.yaml:10: models[0].bits: got a list, expected a value, or a list of 1 to 5 values"
    ),
    ("bits: [8, 32]", "exits: [1, 2]"): (
        "my.yaml:9: models[0].accuracy: got 1 values, expected 2 values, one for each exit"
    ),
    ("bits: [8, 32]", "exits: [3]"): "my.yaml:10: models[0].exits: got exit 3, expected 1 to 1",
    ("deadline_s: 0.5", "deadline_s: [2, 1]"): "my.yaml:11: models[0].deadline_s: expected [least, greatest]",
    ("deadline_s: 0.5", "accuracy: 1.2"): "my.yaml:11: models[0].accuracy: got 1.2, expected a number from 0 to 1",
    ("deadline_s: 0.5", "accuracy_drop: {9: 0.1}"): (
        "my.yaml:11: models[0].accuracy_drop.9: got 9, expected one of 32, 16, 12, 8, 4 bits per element"
    ),
    ("capacity: 4", "capacity: -1"): (
        "my.yaml:17: servers[0].capacity: got -1, expected a whole number from 0 to 1000000"
    ),
    ("capacity: 4", "flop_per_s: 1e9"): (
        "my.yaml:16: servers[0]: has slowdown and flop_per_s; expected exactly one of catalogue, slowdown, flop_per_s, "
        "profiles"
    ),
    ("  - slowdown: 1\n    capacity: 4\n", "  - capacity: 4\n"): (
        "my.yaml:16: servers[0]: has no speed; expected exactly one of catalogue, slowdown, flop_per_s, profiles"
    ),
    ("slowdown: 1\n", "profiles: [mine.json]\n"): (
        "my.yaml:16: servers[0].profiles[0]: no network 'mine.json'; expected a .json file or one of " + NETWORKS
    ),
    ("kind: constant, rate_bps: 1.0e+7", "kind: uniform, low_bps: 9, high_bps: 3"): (
        "my.yaml:19: links.low_bps: got 9, expected at most high_bps, 3"
    ),
    ("kind: constant, rate_bps: 1.0e+7", "kind: traces, files: [no.csv]"): (
        "my.yaml:19: links.files: no file 'no.csv' beside the scenario, in COINFER_DATA or among those shipped"
    ),
    ("kind: constant, rate_bps: 1.0e+7", "kind: radio, bandwidth_hz: 1e6, diameter_m: 100"): (
        "my.yaml:13: devices[0].transmit_power_w: missing or 0; a radio link needs the power of its sender"
    ),
    ("count: 2", "count: 1000001"): (
        "my.yaml:13: devices[0].count: got 1000001, expected a whole number from 1 to 1000000"
    ),
    ("catalogue: desktop", "catalogue: desktop\n    count: 1000000"): (
        "my.yaml:15: servers: got 1,000,001, expected at most 1,000"
    ),
    ("kind: poisson, rate_per_s: 4", "kind: measured, file: workloads/azure_llm_2023_code.csv.gz, length_s: 0.00001"): (
        "my.yaml:7: arrivals.length_s: workloads/azure_llm_2023_code.csv.gz has no whole slot of 0.5 s between 0 s and "
        "1e-05 s"
    ),
    ("tasks_per_slot: 12", "tasks_per_slot: 12\ndistinct_devices: true"): (
        "my.yaml:6: tasks_per_slot: got 12, expected at most 2, as many as devices, which are distinct"
    ),
    ("    deadline_s: 0.5\n", "refused: drop\n"): (
        "my.yaml:9: models[0]: needs deadline_s or deadline_factor, as refused tasks are lost and count as waiting "
        "until then"
    ),
}


@pytest.mark.parametrize(("change", "said"), MISTAKES.items(), ids=[new.strip() or old for old, new in MISTAKES])
def test_a_mistake_gives_one_line_with_file_line_key_value_and_range(change: tuple[str, str], said: str):
    assert message(broken(*change)) == said


def test_several_mistakes_are_counted():
    said = message(broken("slots: 20", "slots: 0").replace("capacity: 4", "capacity: x"))
    assert said == "my.yaml:5: slots: got 0, expected a whole number from 1 to 1000000 (and 1 more)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "my.yaml: empty; `coinfer scenario show campus` prints an example"),
        ("hello", "my.yaml:1: got 'hello', expected a mapping"),
        ("- 1", "my.yaml:1: got a list, expected a mapping"),
        ("a: 1", "my.yaml:1: environment is missing; it says which kind this is"),
        ("[" * 1500, None),
        ("a: " * 40, None),
        ("\x00", None),
        ("? {a: b}\n: 1", None),
    ],
)
def test_what_is_no_scenario_is_refused(text: str, said: str | None):
    found = message(text)
    assert said is None or found == said
    assert "\n" not in found


def test_a_key_that_is_also_the_name_of_a_kind_stands_where_it_stands():
    """`blocks` is an environment, and a key of it."""
    with pytest.raises(ScenarioError, match=r"^mtl-a3c:\d+: blocks: got 0, expected a whole number from 1 to"):
        load("mtl-a3c", {"blocks": 0})
    with pytest.raises(ScenarioError, match=r"^mtl-a3c:\d+: models\[0\]\.blocks: unknown key"):
        load("mtl-a3c", {"models.0.blocks": 3})
    with pytest.raises(ScenarioError, match=r"^mtl-a3c:\d+: links\.uniform: unknown key"):
        load("mtl-a3c", {"links.uniform": 3, "links.low_bps": -1})


def test_files_that_cannot_be_read(tmp_path):
    for name, make in {
        "none.yaml": lambda path: None,
        "folder.yaml": lambda path: path.mkdir(),
        "binary.yaml": lambda path: path.write_bytes(b"\xff\xfe\x00"),
        "large.yaml": lambda path: path.write_text("#" * 1_000_001),
    }.items():
        path = tmp_path / name
        make(path)
        with pytest.raises(ScenarioError) as raised:
            load(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_an_unknown_preset_is_guessed():
    with pytest.raises(ScenarioError, match="did you mean campus"):
        load("campos")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_copied_to_a_file_is_the_same(name: str, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(preset_text(name), encoding="utf-8")
    assert load(path).spec == load(name).spec


def test_numbers_are_read_as_people_write_them():
    spec = read(broken("slot_s: 0.5", "slot_s: 5e-1").replace("rate_bps: 1.0e+7", "rate_bps: 10_000_000"), "x").spec
    assert (spec.slot_s, spec.links.rate_bps) == (0.5, 1e7)
    assert read(broken("about: two devices and two servers", "about: no"), "x").spec.about == "no"


def test_changes_come_from_outside():
    changes = parse_changes(["servers.0.capacity=7", "models.0.deadline_s=[0.1, 0.2]", "servers.1.capacity="])
    spec = read(SMALL, "x", changes=changes).spec
    assert spec.servers[0].capacity == 7
    assert spec.models[0].deadline_s == (0.1, 0.2)
    assert spec.servers[1].capacity is None
    for wrong in ("servers.7.capacity", "servers.²", "nothing.there", "slots.0"):
        with pytest.raises(ScenarioError, match="no such key"):
            read(SMALL, "x", changes={wrong: 1})
    with pytest.raises(ScenarioError, match="expected KEY=VALUE"):
        parse_changes(["slots"])


def test_a_key_of_digits_in_a_mapping_can_be_changed():
    drops = load("sacd", {"models.0.accuracy_drop.8": 0.25}).spec.models[0].accuracy_drop
    assert drops == {**load("sacd").spec.models[0].accuracy_drop, 8: 0.25}


def _compiles_or_says_why(text: str) -> None:
    said = ""
    try:
        compile_scenario(read(text, "fuzz.yaml"))
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.sampled_from(["", "no", "alexnet", "poisson", "1e9", "&a", "2001-99-99", "0x10", "=", "<<", "~", "\x07"])
    | st.text(string.printable, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [line.split(":")[0].strip(" -") for line in SMALL.splitlines()]


@given(st.sampled_from(SMALL.splitlines()), values)
@settings(max_examples=80, deadline=None)
@example("slots: 20", 10**40)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(line: str, value: object):
    start = line[: len(line) - len(line.lstrip(" -"))]
    _compiles_or_says_why(SMALL.replace(line, f"{start}{line.strip(' -').split(':')[0]}: {value!r}"))


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_slip_of_the_pen_is_taken_or_refused_in_one_line(data: st.DataObject):
    text = SMALL
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 12, len(text))))
        text = text[:at] + data.draw(st.text(string.printable + "\u2028\x85\ufeff", max_size=4)) + text[until:]
    _compiles_or_says_why(text)


@given(st.permutations(KEYS), values)
@settings(max_examples=100, deadline=None)
def test_any_document_is_refused_in_one_line(keys: list[str], value: object):
    _compiles_or_says_why("environment: blocks\n" + f"{keys[0]}: {value!r}\n{keys[1]}: {value!r}\n")


def test_a_base_gives_the_keys_that_a_file_leaves_out(tmp_path: Path):
    (tmp_path / "whole.yaml").write_text(SMALL, encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text("base: whole.yaml\nname: other\nslots: 7\n", encoding="utf-8")
    scenario = load(own, {"slot_s": 0.25})
    whole = load(tmp_path / "whole.yaml").spec
    assert (scenario.spec.name, scenario.spec.slots, scenario.spec.slot_s) == ("other", 7, 0.25)
    assert scenario.spec.models == whole.models
    own.write_text("base: whole.yaml\nname: other\nslots: 0\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"own\.yaml:3: slots: got 0"):
        load(own)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("grle-s2", "base: grle-s2 must hold a whole scenario, without a base of its own"),
        ("7", "base: got 7, expected a preset or a file"),
        ("nothing.yaml", "nothing.yaml: cannot read this scenario"),
    ],
)
def test_a_base_that_is_no_whole_scenario_is_one_clear_line(tmp_path: Path, base: str, message: str):
    own = tmp_path / "own.yaml"
    own.write_text(f"base: {base}\nname: other\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=re.escape(message)):
        load(own)
