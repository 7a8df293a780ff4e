"""A real PostgreSQL for the test run: one server for all workers, one database for each test.

Owns the server's life. It runs under a keeper process (this file, run as a program) that waits for
a lock which every user of the server shares; the keeper gets it when the last user is gone, however
it went, and then stops the server and removes its folder. Works as root and as anybody else, with
an installed server or with the one that PyPI's pgserver brings.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import psycopg
import pytest

_TEMPLATE = "lorry_template"
# Connections that a test left open would hold locks; the version of the tables stays.
_EMPTY = """
    DO $$ BEGIN
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid();
        EXECUTE (SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY CASCADE'
            FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version');
    END $$
"""
_START_S = 60  # initdb and start take 1 to 4 s; a loaded machine takes longer
_SETTINGS = {
    "listen_addresses": "''",  # the socket in its folder is the only way in: no port to find or to lose
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
}


class PostgresServer:
    """A running server, reached through the socket in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clean: list[str] = []

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def empty(self, options: str = "") -> Iterator[str]:
        """URL of a database without a table. options: of CREATE DATABASE; skipped where the server knows them not."""
        try:
            name = self._create(f"template0 {options}")
        except psycopg.errors.FeatureNotSupported as error:
            pytest.skip(f"PostgreSQL: {error}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """URL of a database with all tables and no row, as good as new: emptying one takes a tenth of making one."""
        name = self._clean.pop() if self._clean else self._create(_TEMPLATE)
        yield self.url(name)
        self.execute(_EMPTY, name)
        self._clean.append(name)

    def _create(self, template: str) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[IO[str]]:
    with path.open("a+") as file:
        fcntl.flock(file, kind)
        yield file


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    base = tmp_path_factory.getbasetemp()
    with shared_server(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) as server:
        yield server


@contextmanager
def shared_server(shared: Path) -> Iterator[PostgresServer]:
    """The server that `shared` is the folder of, started where it does not run yet."""
    # Behind this lock the server is either up for good, since we are a user now, or gone.
    with _locked(shared / "postgres.users", fcntl.LOCK_SH):
        with _locked(shared / "postgres.start", fcntl.LOCK_EX):
            server = _running(shared) or _started(shared)
        yield server


def _running(shared: Path) -> PostgresServer | None:
    state = shared / "postgres.folder"
    return PostgresServer(Path(state.read_text())) if state.exists() else None


def _started(shared: Path) -> PostgresServer:
    log = shared / "postgres.log"
    with log.open("w") as out:
        keeper = subprocess.run(
            [sys.executable, __file__, str(shared)], stdout=out, stderr=out, check=False, start_new_session=True
        )
    server = _running(shared)
    if keeper.returncode != 0 or server is None:
        pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")
    _make_template(server)
    return server


def _make_template(server: PostgresServer) -> None:
    from adapter_registry.store.migrate import upgrade

    server.execute(f"CREATE DATABASE {_TEMPLATE}")
    upgrade(server.url(_TEMPLATE))


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the test's own, migrated."""
    with postgres_server.migrated() as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the test's own, without a table."""
    with postgres_server.empty() as url:
        yield url


def _binaries(folder: Path) -> Path:
    """Where initdb and pg_ctl are."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    spec = find_spec("pgserver")
    if spec is None or spec.origin is None:
        raise SystemExit("expected an installed PostgreSQL, or PyPI's pgserver, found neither")
    # The user that the server runs as may not be allowed into the virtual environment. The libraries
    # are looked for beside the package.
    package = Path(spec.origin).parent
    for part in (package, package.with_suffix(".libs")):
        shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def _server_user() -> str | None:
    """Whom to run the server as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class _Keeper:
    """The server's life, from an empty folder to none."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._folder = folder
        self._user = _server_user()
        self._bin = _binaries(folder)
        if self._user is not None:
            shutil.chown(folder, self._user)

    def start(self) -> None:
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        settings = _SETTINGS | {"unix_socket_directories": str(self._folder)}
        options = " ".join(f"-c {key}={value}" for key, value in settings.items())
        self._run("pg_ctl", "start", "--wait", f"--timeout={_START_S}", f"--log={self._folder}/log", f"-o{options}")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, f"--pgdata={self._data}", *arguments],
            check=True,
            cwd=self._folder,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )


def _keep(shared: Path) -> None:
    """Start the server, then leave a process behind that stops it when its users are gone."""
    folder = Path(tempfile.mkdtemp(prefix="lorry-pg-"))
    try:
        keeper = _Keeper(folder)
        keeper.start()
        state = shared / "postgres.folder"
        state.write_text(str(folder))
        if os.fork():
            os._exit(0)  # the folder is the other process's now
        with _locked(shared / "postgres.users", fcntl.LOCK_EX):
            state.unlink(missing_ok=True)
        keeper.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
