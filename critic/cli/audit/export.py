"""`critic audit export`: the record of a critic as an in-toto statement."""

import json
import os
from pathlib import Path

import click


@click.command(
    "export",
    epilog="""\b
Examples:
  critic audit export v1.2.0 --out critic.intoto.json
  critic audit export v1.2.0 --key ~/.ssh/id_ed25519 --out critic.intoto.json""",
)
@click.argument("subject")
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True), help="Sign the statement with this private Ed25519 key."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of standard output.",
)
def command(subject: str, key: Path | None, out: Path | None) -> None:
    """Write the record as an in-toto statement, signed if you give a key.

    The password of the key is read from CRITIC_KEY_PASSWORD, or else asked for if the key has one.
    """
    from critic import files
    from critic.audit import attestation, resolve

    content = attestation.make_statement(resolve.find(Path.cwd(), subject))
    if key is not None:
        password = os.environ.get("CRITIC_KEY_PASSWORD")
        try:
            content = attestation.sign(content, key, password.encode() if password else None)
        except attestation.SignatureError as error:
            if password or "assword" not in str(error):
                raise
            password = click.prompt("Password of the key", hide_input=True, err=True)
            content = attestation.sign(content, key, str(password).encode())
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    files.write_text(out, text)
    click.echo(f"Wrote {out}", err=True)
