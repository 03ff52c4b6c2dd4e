"""The state of a site as a table for terminals."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_COLUMNS = ("name", "role", "state", "address", "waits", "backlog ms", "room", "answered", "not", "to tell", "lost")


def site_table(state: Mapping[str, Any]) -> RenderableType:
    """Return the nodes, and one line about all of them.

    Args:
        state: as the controller gives it.
    """
    table = Table(box=None, header_style="bold")
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if number < 4 else "right", overflow="fold")
    for node in state["nodes"]:
        there = "there" if node["there"] else f"gone for {node['silent_s']:.0f} s"
        load = (node["queued"], f"{node['backlog_ms']:.0f}", node["room"]) if node["role"] == "edge" else ("", "", "")
        counts = (node["success"], node["failed"], node["spooled"], node["dropped"])
        style = "" if node["there"] else "red"
        table.add_row(node["name"], node["role"], there, node["address"], *map(str, (*load, *counts)), style=style)
    last = state["series"][-1] if state["series"] else {"success": 0.0, "failed": 0.0, "latency_ms": 0.0}
    line = (
        f"{last['success']:.1f} requests/s answered, {last['failed']:.1f} not, {last['latency_ms']:.1f} ms on average; "
        f"{state['stored']} decisions kept"
    )
    problem = state["store_problem"]
    warning = [Text(f"experience cannot be stored: {problem}", style="red")] if problem else []
    return Group(Text(line), *warning, table)
