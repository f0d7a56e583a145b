"""optuna-dashboard on the storage of a run: it shows, and changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError, StorageError
from autocompress.study.book import asked, open_storage
from autocompress.study.database import close_database
from autocompress.study.patience import Patience
from autocompress.study.place import Place
from autocompress.study.storage import GLANCE

READING = ("GET", "HEAD", "OPTIONS")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(place: Place, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the dashboard until it is interrupted.

    Args:
        place: Where the trials are; another process may be writing them.
        host: Address to listen on.
        port: 0 takes any free one.
        ready: Hears the address of the page once it listens.

    Raises:
        ConfigError: If the extra is missing, or the address cannot be listened on.
        StorageError: If the storage cannot be read.
    """
    import socketserver
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise ConfigError(
            "dashboard: optuna-dashboard is not installed: pip install 'autocompress[dashboard]'"
        ) from error

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True
        # Two dashboards on one port would share its visitors.
        allow_reuse_port = False

    def attempt() -> Any:
        with asked(place):
            return open_storage(place, must_exist=True)

    _refuse_missing(place)
    storage = Patience(GLANCE)(attempt, place)
    try:
        try:
            server = make_server(host, port, read_only(wsgi(storage)), Server, Quiet)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"dashboard: cannot listen on {host}:{port}: {reason}; give another --port or"
                " --host"
            ) from error
        with server, contextlib.suppress(KeyboardInterrupt):
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{server.server_port}/")
            server.serve_forever()
    finally:
        close_database(storage)


def read_only(application: Application) -> Application:
    """The application without what writes: a journal has one writer, and that is the run."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in READING:
            return application(environment, start)
        reason = b'{"reason": "this dashboard only reads: the run writes its study itself"}'
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [reason]

    return answer


def _refuse_missing(place: Place) -> None:
    if place.journal is not None and not Path(place.journal).is_file():
        raise StorageError(f"{place}: no such study yet")
