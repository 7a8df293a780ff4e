"""Signatures on the command line: key new, key id, sign, verify.

Owns these commands, and where a key's passphrase comes from. What is signed and what holds is
lorry.signing's business.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorry.cli import output
from lorry.cli.context import Json, Reference, registry
from lorry.errors import Conflict

if TYPE_CHECKING:
    from lorry.signing import SigningKey

app = typer.Typer(help="Ed25519 keys that sign versions.", rich_markup_mode=None, no_args_is_help=True)

_VARIABLE = "LORRY_SIGNING_PASSPHRASE"
_LOCKED = b"BEGIN ENCRYPTED"

PrivateKey = Annotated[
    Path, typer.Option("--key", metavar="PEM", exists=True, dir_okay=False, help="The private key to sign with.")
]
PublicKeys = Annotated[
    list[Path],
    typer.Option("--key", metavar="PEM", exists=True, dir_okay=False, help="A trusted public key; several may be."),
]


def register(app: typer.Typer) -> None:
    """Add the commands that are not below `key`."""
    app.command()(sign)
    app.command()(verify)


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(metavar="PEM", help="Where the private key goes; must not exist.")],
    *,
    lock: Annotated[
        bool, typer.Option("--lock", help=f"Encrypt it with a passphrase, asked for or of {_VARIABLE}.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key pair: the private half into PEM, the public half beside it with .pub.pem at the end."""
    from lorry.signing import new_key, public_key

    passphrase = _passphrase(path, confirm=True) if lock else None
    private, public = new_key(passphrase)
    beside = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
    _write(path, private, mode=0o600)
    _write(beside, public, mode=0o644)
    key_id = public_key(public).id
    if as_json:
        output.say_json({"private": str(path), "public": str(beside), "id": key_id})
    else:
        output.say(f"{path}  {beside}  {key_id}")


@app.command("id")
def show_id(
    path: Annotated[Path, typer.Argument(metavar="PEM", exists=True, dir_okay=False, help="A public key.")],
    *,
    as_json: Json = False,
) -> None:
    """Say the id of a public key, under which signatures and policies name it."""
    from lorry.signing import public_key

    key_id = public_key(path.read_bytes()).id
    output.say_json({"id": key_id}) if as_json else output.say(key_id)


def sign(ctx: typer.Context, reference: Reference, *, key: PrivateKey, as_json: Json = False) -> None:
    """Sign a published version under its name; the registry keeps the signature."""
    signing = private_key(key)
    with registry(ctx) as client:
        version = client.sign_version(reference, signing)
    if as_json:
        output.say_json(version)
    else:
        output.say(f"signed {version.namespace}/{version.name}@{version.number}  {version.digest}")


def verify(ctx: typer.Context, reference: Reference, *, key: PublicKeys, as_json: Json = False) -> None:
    """Check here that one of the keys signed a version under this name; the registry is not believed."""
    from lorry.signing import public_key

    trusted = [public_key(path.read_bytes()) for path in key]
    with registry(ctx) as client:
        version, signers = client.verify(reference, trusted)
    if as_json:
        output.say_json({"digest": version.digest, "signed_by": signers})
    else:
        output.say(f"{version.namespace}/{version.name}@{version.number}  {version.digest}")
        for signer in signers:
            output.say(f"signed by {signer}")


def private_key(path: Path) -> SigningKey:
    """The private key in a file, unlocked. Raises InvalidInput."""
    from lorry.signing import signing_key

    pem = path.read_bytes()
    return signing_key(pem, _passphrase(path, confirm=False) if _LOCKED in pem else None)


def _passphrase(path: Path, *, confirm: bool) -> bytes:
    given = os.environ.get(_VARIABLE)
    if given is None and not sys.stdin.isatty():
        raise typer.BadParameter(f"{path} needs a passphrase: set {_VARIABLE}, there is no terminal to ask")
    if given is None:
        given = typer.prompt(f"passphrase of {path}", hide_input=True, confirmation_prompt=confirm, err=True)
    return given.encode()


def _write(path: Path, pem: bytes, *, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise Conflict(f"{path} exists; a key is never overwritten") from None
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
