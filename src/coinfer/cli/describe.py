"""`coinfer describe`: say what a network is, and where it can be cut."""

from typing import TYPE_CHECKING, Annotated

import typer

from coinfer.cli.console import console
from coinfer.cli.options import Limit, Model, Shape, parse_limits, parse_shapes
from coinfer.cli.picture_options import with_picture_options

if TYPE_CHECKING:
    from coinfer.graph.pictures import PictureSettings


@with_picture_options
def describe(
    pictures: "PictureSettings",
    model: Model,
    shape: Shape = None,
    limit: Limit = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False,
) -> None:
    """Say what a network takes, makes and costs, what was folded when it was read, and where it can be cut.

    Sizes are in kilobytes (1000 bytes) for one request of exact values, work in millions of operations. Of a file that
    leaves sizes free, its inputs are shown, and which --shape is missing.

    Example: [bold]coinfer describe resnet50[/bold]
    """
    from coinfer.cli.reports.describe_network import describe_network

    describe_network(console, model, parse_shapes(shape), pictures, parse_limits(limit), as_json=json)
