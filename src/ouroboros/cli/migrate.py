"""`ouroboros migrate --to STORE`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace

from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.errors import InvalidInput
from ouroboros.settings import Settings

NAME = "migrate"
HELP = "copy a whole store to another of any kind; run it again to resume after an interruption"
EXAMPLES = """\
  ouroboros migrate --to ./elsewhere
  ouroboros migrate --from ./store --to postgresql://db/adapters s3://bucket/adapters
  ouroboros migrate --from postgresql://db/adapters s3://bucket/adapters --to ./store"""


def add_arguments(parser: ArgumentParser) -> None:
    words = "a folder, or two URLs: metadata, then weights"
    parser.add_argument(
        "--from", dest="source", metavar="URL", nargs="+", help=f"{words} (default: this store)"
    )
    parser.add_argument("--to", dest="target", metavar="URL", nargs="+", required=True, help=words)


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    from ouroboros.build import open_stores, store_urls
    from ouroboros.registry.migrate import migrate_store

    source = settings_for(settings, options.source) if options.source else settings
    target = settings_for(settings, options.target)
    if set(store_urls(source)) & set(store_urls(target)):
        raise InvalidInput("Source and target are the same store.", hint="Name another with --to.")
    require_store(source)
    with (
        closing(open_stores(source)) as source_stores,
        closing(open_stores(target)) as target_stores,
        out.waiting("Copying"),
    ):
        contents = migrate_store(source_stores, target_stores)
    out.result(
        asdict(contents),
        f"Copied and verified {contents.blobs} blobs, {contents.records} records"
        f" and {contents.logs} logs.",
    )


def settings_for(settings: Settings, urls: Sequence[str]) -> Settings:
    """Returns the settings with the store at one folder or at two URLs."""
    if len(urls) == 1:
        return replace(settings, store=urls[0], metadata="", blobs="")
    if len(urls) != 2:
        raise InvalidInput(
            "A store is one folder or two URLs.", hint="Give the URLs of metadata and of weights."
        )
    return replace(settings, metadata=urls[0], blobs=urls[1])
