"""`ouroboros keys create|list|revoke`."""

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.checks import check_number
from ouroboros.domain.errors import InvalidInput, MissingExtra
from ouroboros.settings import Settings

NAME = "keys"
HELP = "create, list or revoke the keys of ouroboros serve"
EXAMPLES = """\
  ouroboros keys create ann
  ouroboros keys create shop --tenant shop --scopes generate,feedback --adapters "shop-*" --days 90
  ouroboros keys list
  ouroboros keys revoke key-0a1b2c3d4e5f"""

_ACTIONS = ("create", "list", "revoke")
_HEADER = ("key", "begins with", "name", "tenant", "scopes", "adapters", "expires")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="create, list or revoke")
    parser.add_argument("name", metavar="NAME", nargs="?", help="whose key; to revoke one, its id")
    parser.add_argument("--tenant", default="", metavar="NAME", help="whose records the key sees")
    parser.add_argument(
        "--scopes",
        default="read,generate,feedback,train",
        metavar="LIST",
        help="of read, generate, feedback, train, admin (all but admin)",
    )
    parser.add_argument(
        "--adapters", default="*", metavar="LIST", help="patterns of adapters that the key sees (*)"
    )
    parser.add_argument("--days", type=float, metavar="X", help="days until the key expires (never)")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    try:
        from ouroboros.server.keys import create_key, revoke_key
        from ouroboros.server.records import ServiceRecords
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Keys need {error.name}.", hint='pip install "ouroboros-learning[server]"'
        ) from error
    from ouroboros.build import open_stores

    if (options.name is None) != (options.action == "list"):
        raise InvalidInput("create and revoke need a NAME, list takes none.", hint="See: keys --help")
    if options.days is not None:
        check_number("days", options.days, 0.0, 1e6)
    # The first key may make the store: a server is given its keys before its adapters.
    if options.action != "create":
        require_store(settings)
    stores = open_stores(settings)
    try:
        records = ServiceRecords(stores.metadata, stores.blobs)
        if options.action == "list":
            keys = records.keys.all()
            table = out.table(_HEADER, [_row(key) for key in keys])
            out.result([_json(key) for key in keys], table if keys else "There are no keys.")
        elif options.action == "revoke":
            key = revoke_key(records, options.name)
            out.result(_json(key), f"Revoked {key['id']} of {key['name']}.")
        else:
            secret, key = create_key(
                records,
                options.name,
                tenant=options.tenant,
                scopes=tuple(options.scopes.split(",")),
                adapters=tuple(options.adapters.split(",")),
                days=options.days,
            )
            out.result(
                {**_json(key), "secret": secret},
                secret,
                f"This is the only time that {key['id']} is shown. Restart a server that had no keys.",
            )
    finally:
        stores.close()


def _row(key: Any) -> tuple[str, ...]:
    expires = key["expires_at"]
    when = "never" if expires is None else describe.local_time(datetime.fromtimestamp(expires, UTC))
    scopes, adapters = ",".join(key["scopes"]), ",".join(key["adapters"])
    return key["id"], key["prefix"], key["name"], key["tenant"], scopes, adapters, when


def _json(key: Any) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "digest"}
