"""Who may do what, on the command line: token create, token ls, token revoke, whoami, audit.

Owns what these commands print: a new token alone on stdout, so that it can go straight into a file.
Does not judge rights; the registry does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lorry.cli import output
from lorry.cli.context import Json, registry

if TYPE_CHECKING:
    from lorry.v1.access_pb2 import Principal

tokens = typer.Typer(help="Tokens and certificates: make, list, revoke.", no_args_is_help=True)

_Since = Annotated[str, typer.Option(metavar="SPAN|TIME", help="Such as 15m, 7d or 2026-01-31.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(whoami)
    app.command()(audit)


@tokens.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is; shown in the audit log.")],
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="NAMESPACE=PERMISSION",
            help="read, push or admin; the namespace * is all. May be given several times.",
        ),
    ],
    expires: Annotated[str | None, typer.Option(metavar="SPAN", help="Such as 90d; never where not given.")] = None,
    delegate: Annotated[bool, typer.Option("--delegate", help="For a worker: it acts for its own callers.")] = False,
    certificate: Annotated[
        str | None, typer.Option(metavar="NAME", help="No token: the client certificate of this common name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token, or give scopes to a client certificate. The token is shown once."""
    from lorry.access import parse_scope
    from lorry.spans import parse_span

    scopes = dict(map(parse_scope, scope))
    end = None if expires is None else datetime.now(UTC) + parse_span(expires)
    with registry(ctx) as client:
        if certificate is not None:
            granted = client.grant_certificate(name, certificate, scopes, delegate=delegate, expires=end)
            output.say_json(granted) if as_json else output.say(f"{name}  {_scopes(granted)}")
            return
        made = client.create_token(name, scopes, delegate=delegate, expires=end)
    if as_json:
        output.say_json(made)
    else:
        output.say(made.token)
        output.note(f"the token of {name}: {_scopes(made.principal)}; it is shown this once")


@tokens.command("ls")
def list_principals(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List who may do something, those without rights any more too."""
    with registry(ctx) as client:
        principals = list(client.principals())
    if as_json:
        output.say_json(principals)
        return
    output.show_table(
        ("name", "scopes", "kind", "created", "last seen", "ends"),
        (
            (p.name, _scopes(p), _kind(p), _moment(p, "create_time"), _moment(p, "last_seen_time"), _end(p))
            for p in principals
        ),
    )


@tokens.command()
def revoke(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")], *, as_json: Json = False) -> None:
    """Take every right from a token or a certificate, for good."""
    with registry(ctx) as client:
        principal = client.revoke_principal(name)
    output.say_json(principal) if as_json else output.say(f"revoked {name}")


def whoami(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Say who the registry takes you for, and what you may do."""
    with registry(ctx) as client:
        principal = client.whoami()
    if as_json:
        output.say_json(principal)
        return
    kind = "anonymous" if principal.anonymous else _kind(principal)
    output.show_facts(
        (("name", principal.name), ("scopes", _scopes(principal)), ("kind", kind), ("ends", _end(principal)))
    )


def audit(  # noqa: PLR0913 - one option for each filter of the log
    ctx: typer.Context,
    *,
    namespace: Annotated[str, typer.Option(help="This namespace alone.")] = "",
    principal: Annotated[str, typer.Option(help="What this one did.")] = "",
    digest: Annotated[str, typer.Option(help="What was done to this version, base or blob.")] = "",
    action: Annotated[str, typer.Option(help="The rpc's name, such as DeleteVersion.")] = "",
    since: _Since = "",
    until: _Since = "",
    as_json: Json = False,
) -> None:
    """Say who did what to which digest, newest first."""
    with registry(ctx) as client:
        entries = client.audit_entries(
            namespace=namespace,
            principal=principal,
            digest=digest,
            action=action,
            since=_ago(since),
            until=_ago(until),
        )
        if as_json:
            output.say_json(list(entries))
            return
        output.show_table(
            ("time", "who", "action", "what", "digest", "detail"),
            (
                (
                    output.moment(e.time),
                    f"{e.principal} via {e.via}" if e.via else e.principal,
                    e.action,
                    "/".join(filter(None, (e.namespace, e.name))),
                    output.short(e.digest),
                    e.detail,
                )
                for e in entries
            ),
        )


def _ago(text: str) -> datetime | None:
    from lorry.errors import InvalidInput
    from lorry.spans import parse_span

    if not text:
        return None
    try:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return datetime.now(UTC) - parse_span(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (InvalidInput, OverflowError) as error:
        raise InvalidInput(f"expected a span such as 7d or a time such as 2026-01-31T12:00Z, got {text!r}") from error


def _scopes(principal: Principal) -> str:
    words = (f"{scope.namespace}={output.enum_word(scope, 'permission')}" for scope in principal.scopes)
    return " ".join(words)


def _kind(principal: Principal) -> str:
    if principal.HasField("revoke_time"):
        return ""  # what it showed is forgotten
    proof = f"certificate {principal.certificate}" if principal.certificate else "token"
    return f"{proof}, delegate" if principal.delegate else proof


def _moment(principal: Principal, field: Literal["create_time", "expire_time", "last_seen_time"]) -> str:
    return output.moment(getattr(principal, field)) if principal.HasField(field) else ""


def _end(principal: Principal) -> str:
    if principal.HasField("revoke_time"):
        return f"revoked {output.moment(principal.revoke_time)}"
    return _moment(principal, "expire_time")
