"""`coinfer ca`: the certificates of a site."""

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coinfer.cli.console import console

app = typer.Typer(help="Certificates of a site: who is a member, and in which role.", no_args_is_help=True)
Site = Annotated[Path, typer.Argument(help="Folder of the site.")]
Name = Annotated[str, typer.Argument(help="Name of the member: small letters, digits, hyphens.")]
Days = Annotated[float, typer.Option(min=0.001, help="Days for which the certificate is valid.")]
DAYS = 90.0


@app.command()
def init(site: Site) -> None:
    """Create a site: its authority, and the certificate of its controller.

    Example: [bold]coinfer ca init site/[/bold]
    """
    from coinfer.site.certificates.authority import create_authority, issue

    create_authority(site)
    issue(site, "controller", "controller")
    console.print(f"created {site} with its authority (keep {site / 'ca.key'} secret) and its controller")
    console.print(f"next: coinfer ca join {site} NAME --role edge|device|operator", markup=False)


@app.command()
def join(
    site: Site,
    name: Name,
    role: Annotated[str, typer.Option(help="edge, device, controller or operator: what it may do.")],
    days: Days = DAYS,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or IP address by which browsers reach it; repeat.")
    ] = None,
) -> None:
    """Admit a member: issue its certificate into a folder that may be copied to its machine.

    Example: [bold]coinfer ca join site/ edge-1 --role edge[/bold]
    """
    from coinfer.site.certificates.authority import issue
    from coinfer.site.certificates.roles import check_role

    home = issue(site, name, check_role(role), days=days, hosts=host or ())
    console.print(f"{name} is a member with role {role}; copy {home} to its machine, and start it with --site {home}")


@app.command()
def renew(site: Site, name: Name, days: Days = DAYS) -> None:
    """Give a member a new key and certificate. Its node takes them up from its folder without a restart.

    Example: [bold]coinfer ca renew site/ edge-1[/bold]
    """
    from coinfer.site.certificates.authority import renew

    console.print(f"renewed {name}; if its node runs elsewhere, copy {renew(site, name, days=days)} there")


@app.command()
def revoke(site: Site, name: Name) -> None:
    """Revoke a member's certificate. The controller tells all nodes; calls of this member are refused from then on.

    Example: [bold]coinfer ca revoke site/ edge-1[/bold]
    """
    from coinfer.site.certificates.authority import revoke

    member = revoke(site, name)
    console.print(f"{name} was revoked already" if member.revoked else f"revoked {name} (role {member.peer.role})")


@app.command("list")
def list_members(site: Site) -> None:
    """Show the members of a site.

    Example: [bold]coinfer ca list site/[/bold]
    """
    from coinfer.site.certificates.authority import members

    table = Table(title=f"members of {site}")
    for heading in ("name", "role", "valid until", "state"):
        table.add_column(heading)
    now = datetime.datetime.now(datetime.timezone.utc)
    for member in members(site):
        state = "revoked" if member.revoked else "expired" if member.expires <= now else "valid"
        table.add_row(member.peer.name, member.peer.role, f"{member.expires:%Y-%m-%d %H:%M} UTC", state)
    console.print(table)
