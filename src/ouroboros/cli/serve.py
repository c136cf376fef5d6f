"""`ouroboros serve`."""

import logging
import re
import sys
from argparse import ArgumentParser, Namespace

from ouroboros.cli.output import Output
from ouroboros.cli.parser import given_options
from ouroboros.domain.checks import check_int, check_number
from ouroboros.domain.errors import InvalidInput, MissingExtra
from ouroboros.settings import Settings

NAME = "serve"
HELP = "answer OpenAI's API over HTTP, with fine-tuning jobs and feedback"
EXAMPLES = """\
  ouroboros serve                          http://127.0.0.1:8000/v1, for this machine only
  ouroboros serve --port 9000
  ouroboros keys create ann                then it may be reached from elsewhere:
  ouroboros serve --host 0.0.0.0"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="which port (8000)")
    parser.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="path prefix under which a proxy serves it, such as /ouroboros",
    )
    parser.add_argument(
        "--queue", type=int, metavar="N", help="answers in progress or waiting, at most (256)"
    )
    parser.add_argument(
        "--keep-days", type=float, metavar="X", help="how long feedback can name a completion (30)"
    )
    parser.add_argument(
        "--drain-seconds", type=float, metavar="X", help="time for answers to finish on SIGTERM (30)"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    try:
        from ouroboros.server.app import create_app
        from ouroboros.server.records import ServiceRecords
        from ouroboros.server.run import open_socket, serve
        from ouroboros.server.service import Limits
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The server needs {error.name}.", hint='pip install "ouroboros-learning[server]"'
        ) from error
    from ouroboros.build import open_service

    changes = given_options(options, "keep_days", "drain_seconds")
    for name, value in changes.items():
        check_number(name, value, 0.0, 1e6)
    if options.queue is not None:
        check_int("queue", options.queue, 1, 1_000_000)
        changes["requests"] = options.queue
    engine, stores = open_service(settings)
    async with engine:
        keyless = not ServiceRecords(stores.metadata, stores.blobs).keys.all()
        listening = open_socket(options.host, options.port, keyless=keyless)
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log_to_stderr()
        app = create_app(
            engine,
            stores.metadata,
            stores.blobs,
            limits=Limits(**changes),  # type: ignore[arg-type]
            keyless=keyless,
            root_path=read_root_path(options.root_path),
        )
        access = "this machine only: there is no key" if keyless else "a key is needed"
        out.result(
            {"url": url, "keyless": keyless},
            f"Listening on {url}/v1 ({access}).",
            f"The page: {url}{read_root_path(options.root_path)}/",
        )
        sys.stdout.flush()
        await serve(app, listening)


def read_root_path(text: str) -> str:
    """The prefix with a slash in front and none behind. Raises `InvalidInput` for what is no path."""
    path = text.strip("/")
    if not path:
        return ""
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", part) for part in path.split("/")):
        raise InvalidInput(
            f"{text!r} is not a path prefix.", hint="Give a path such as --root-path /ouroboros."
        )
    return f"/{path}"


def log_to_stderr() -> None:
    """One JSON line for each request, and tracebacks of our own errors."""
    logger = logging.getLogger("ouroboros.server")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
