"""A PostgreSQL of the tests' own: started from the installed programs, on a socket in a folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def why_not() -> str:
    """Why there can be no server here; empty if there can."""
    if not PROGRAMS or not (PROGRAMS[-1] / "initdb").is_file():
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


class Server:
    """One server without TCP; its files are gone when it is closed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="acpg-", dir="/tmp"))  # sockets: short paths
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync")
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all locked scram-sha-256\n{rules.read_text()}")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tester@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        log = str(self.folder / "log")
        self._control("start", "-w", "-o", options, "-l", log)

    def stop(self) -> None:
        """As a power cut would, but for the disk."""
        self._control("stop", "-m", "immediate")

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").is_file():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # Not captured by a pipe: the server would keep it open.
        with (self.folder.with_suffix(".out")).open("w+b") as output:
            done = subprocess.run(
                [str(PROGRAMS[-1] / program), *arguments],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                **self._as,
            )
            output.seek(0)
            said = output.read().decode()
        self.folder.with_suffix(".out").unlink()
        assert done.returncode == 0, said
