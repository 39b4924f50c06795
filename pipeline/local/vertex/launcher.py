"""Starts the stand-in as a child process, and talks to its control port."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from pipeline.local.child import first_line
from pipeline.local.vertex.faults import Fault, Settings

START_TIMEOUT_SECS = 60.0
STOP_TIMEOUT_SECS = 5.0
CONTROL_TIMEOUT_SECS = 120.0
HOST = "127.0.0.1"
WITH_PARENT = "--die_with_parent"


class LoggedCall(NamedTuple):
    """One call: the images it named, when it came (seconds since the epoch), how long it took, and how it ended.

    `status` is OK, the name of a gRPC status, or GONE where the caller did not wait; `finish` is the answer's finish
    reason, or BLOCKED_ and its block reason.
    """

    uris: tuple[str, ...]
    started_at: float
    secs: float
    status: str
    finish: str

    @property
    def paid(self) -> bool:
        """Whether it is billed: answered, or given up by the caller, who cannot know."""
        return self.status in {"OK", "GONE"}


class VertexStandIn:
    """The stand-in as a child process, for as long as the `with` block or the parent process lives.

    After `stop` (SIGTERM) or `kill` (SIGKILL), `start` brings it back on the same ports with the same settings; what it
    counted is gone.

    Args:
        bucket_root: Folder with a folder for each bucket; None is an empty one.
        tls: TLS with a certificate of its own, see `ca_file`; without it plaintext.
        rest: Whether it answers over REST too, at `rest_url`.
        settings: Fields of `faults.Settings`. `check_tokens=True` wants tokens that it has issued itself:
            GOOGLE_APPLICATION_CREDENTIALS=`credentials_file` fetches them.

    Raises:
        RuntimeError: It does not start; with the last lines of its log.
    """

    def __init__(
        self, bucket_root: str | Path | None = None, *, tls: bool = False, rest: bool = False, **settings: Any
    ) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="vertex-stand-in-")
        self._root = Path(bucket_root or self._files.name).resolve()
        self._tls = tls
        self._rest = rest
        self._settings = _as_json(settings)
        self._ports = {"grpc": 0, "rest": 0, "control": 0}
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None
        Settings().changed(settings)  # a wrong setting is an error here, not in the child

    @property
    def endpoint(self) -> str:
        """For `--vertex_endpoint`: HOST:PORT, or https://HOST:PORT with TLS."""
        return f"https://localhost:{self.port}" if self._tls else f"{HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The gRPC port."""
        return self._ports["grpc"]

    @property
    def rest_url(self) -> str:
        """Base URL for SDKs that speak REST."""
        return f"{'https://localhost' if self._tls else f'http://{HOST}'}:{self._ports['rest']}"

    @property
    def control_url(self) -> str:
        """Base URL of the control port; `POST /token` there is its OAuth 2 token endpoint."""
        return f"http://{HOST}:{self._ports['control']}"

    @property
    def ca_file(self) -> Path:
        """Certificate of the authority to trust, PEM: for GRPC_DEFAULT_SSL_ROOTS_FILE_PATH and SSL_CERT_FILE."""
        return Path(self._files.name) / "tls" / "ca.pem"

    @property
    def credentials_file(self) -> Path:
        """Key of a service account whose access tokens are valid here: for GOOGLE_APPLICATION_CREDENTIALS."""
        path = Path(self._files.name) / "service-account.json"
        if not path.exists():
            from pipeline.local.tls import write_service_account

            write_service_account(path, f"{self.control_url}/token", "demo-project")
        return path

    def start(self) -> Self:
        """Starts the child and returns when all ports answer."""
        if self._process is not None:
            return self
        # The log is read only when the start fails; a file, as an unread pipe would block the child.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "pipeline.local.vertex", WITH_PARENT, "--bucket_root", str(self._root)]
        command += ["--port", str(self._ports["grpc"]), "--control_port", str(self._ports["control"])]
        command += ["--rest_port", str(self._ports["rest"])] if self._rest else []
        command += ["--tls_dir", str(self.ca_file.parent)] if self._tls else []
        command += ["--settings", json.dumps(self._settings)]
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,  # held open: its end is how the child learns that the parent is gone
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parents[3],
            start_new_session=True,  # Ctrl-C goes to the whole group: calls in flight must still be answered then
        )
        line = first_line(self._process, START_TIMEOUT_SECS)
        if not line:
            self._log.seek(0)
            log = self._log.read().decode(errors="replace")[-4000:]
            self.kill()
            raise RuntimeError(f"the Vertex AI stand-in did not start; its log ends with:\n{log}")
        self._ports = json.loads(line)
        return self

    def stop(self) -> None:
        """Ends the child in order: calls in flight get UNAVAILABLE."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the child with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Ends the child with SIGKILL and starts it again on the same ports with the same settings."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Ends the child and removes its files."""
        self.stop()
        self._files.cleanup()

    def configure(self, **changes: Any) -> None:
        """Changes settings, fields of `faults.Settings`; quotas and the dice start anew.

        Raises:
            ValueError: A setting is unknown or wrong; nothing has changed.
        """
        changed = _as_json(changes)
        self._call("configure", changed)
        self._settings.update(changed)

    def reset(self, **settings: Any) -> None:
        """Back to default settings but for `settings`, and no memory of earlier calls: for the next test."""
        self._settings = _as_json(settings)
        self._call("reset", self._settings)

    def stats(self) -> dict[str, Any]:
        """Counts since the start: calls, statuses, in_flight, max_in_flight, connections, max_streams (most calls in
        flight on one connection), tokens by kind, paid_calls, and some by name (models, faults, finishes, ...).
        """
        stats: dict[str, Any] = self._call("stats")
        return stats

    def calls_by_uri(self) -> dict[str, int]:
        """How many calls named each image."""
        counts: dict[str, int] = self._call("calls_by_uri")
        return counts

    def log(self) -> list[LoggedCall]:
        """Every call that has ended, in that order."""
        return [LoggedCall(tuple(uris), *rest) for uris, *rest in self._call("log")]

    def last_request(self) -> dict[str, Any]:
        """The last GenerateContentRequest that could be parsed, with the field names of the .proto file."""
        request: dict[str, Any] = self._call("last_request")
        return request

    def pause(self, kind: str, secs: float) -> None:
        """Answers every call with the error `kind`, such as UNAVAILABLE, for so many seconds."""
        self._call("pause", {"kind": kind, "secs": secs})

    def drop_connections(self) -> int:
        """Closes all connections, whatever is in flight on them; returns how many."""
        return int(self._call("drop_connections"))

    def revoke_tokens(self) -> None:
        """Refuses all access tokens issued so far."""
        self._call("revoke_tokens")

    def token(self) -> str:
        """A new access token."""
        return str(self._call("token")["access_token"])

    def wait_for(self, timeout_secs: float = 30.0, **least: float) -> None:
        """Returns when `calls`, `in_flight` and `ended`, of those given, are at least as large.

        Raises:
            TimeoutError: They were not in time.
        """
        if not self._call("reached", {"least": least, "timeout_secs": timeout_secs}):
            raise TimeoutError(f"{least} was not reached within {timeout_secs} s; {self.stats()}")

    def _call(self, name: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.control_url}/{name}",
            data=json.dumps(body or {}).encode(),
            headers={"content-type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CONTROL_TIMEOUT_SECS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their faults as plain dictionaries."""
    plain = dict(settings)
    if "faults" in plain:
        plain["faults"] = [dataclasses.asdict(each) if isinstance(each, Fault) else each for each in plain["faults"]]
    return plain
