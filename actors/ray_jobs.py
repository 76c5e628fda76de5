"""A driver inside a Ray cluster: handed over by Ray Jobs, followed from here.

The job is the cluster's: it goes on when this process ends or loses the connection. Its number is
made of a key that the caller chooses, so that the same call finds it again.
"""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from actors.ray_cluster import JOIN_SECONDS, TOKEN

# isort: split
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from ood_core.errors import ServiceLost

LOOK_SECONDS = 10.0
"""After so long without a line of the log the job is asked whether it lives."""
PATIENCE_SECONDS = 300.0
"""A connection that is lost is tried again for so long."""
Write = Callable[[str], None]


@final
class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, whose requests end: by themselves they wait for ever."""

    def _do_request(self, *arguments: Any, **keywords: Any) -> Any:
        return super()._do_request(*arguments, timeout=JOIN_SECONDS, **keywords)


@final
class JobService:
    """The Ray Jobs service of a cluster, at the address of its dashboard.

    Raises:
        ServiceLost: nobody answers there, or it asks for a token that this machine has not.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # else RAY_ADDRESS would win
        try:
            self._client = self._connected()
        except Exception as error:  # of any type, as Ray passes on what it meets
            raise self._lost(_first(error)) from error

    def _connected(self) -> _Client:
        """A client, with the token of this machine if the cluster asks for one."""
        try:
            return _Client(self.address)
        except AuthenticationError:
            token = _token()
            if token is None:
                raise
            return _Client(self.address, headers={"Authorization": f"Bearer {token}"})

    def running(self, key: str) -> str | None:
        """Number of the job of this key that is not over; None where there is none."""
        alive = [job.submission_id for job in self._jobs(key) if not job.status.is_terminal()]
        return alive[0] if alive else None

    def submit(self, key: str, command: Sequence[str], environment: Mapping[str, Any]) -> str:
        """Hand a command over, with a runtime environment; return the number of the job.

        Raises:
            ServiceLost: it was not taken.
        """
        try:
            number = f"{key}-{len(self._jobs(key)) + 1}"
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=number,
                runtime_env=dict(environment),
            )
        except Exception as error:  # as above
            raise self._lost(_first(error)) from error
        return number

    def follow(self, number: str, write: Write, say: Write) -> int:
        """Write the log of a job as it grows, until the job is over; return its exit code.

        Raises:
            ServiceLost: the connection is lost and does not come back, or the cluster does not
                know the job any more.
        """
        job = asyncio.run(self._followed(number, write, say))
        if job.status == JobStatus.SUCCEEDED:
            return 0
        if job.driver_exit_code is None or job.driver_exit_code < 0:
            say(f"the job ended as {job.status.value.lower()}: {job.message or 'no reason given'}")
        return max(1, job.driver_exit_code or 1)

    async def _followed(self, number: str, write: Write, say: Write) -> JobDetails:
        shown, heard, told = 0, time.monotonic(), False
        while True:
            try:
                read = 0
                async for text in self._lines(number):
                    write(text[max(0, shown - read) :])  # a new connection begins at the start
                    read += len(text)
                    shown, heard, told = max(shown, read), time.monotonic(), False
                job = self._client.get_job_info(number)
                heard = time.monotonic()
                if job.status.is_terminal():
                    return job
            except (OSError, ClientError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise self._lost(f"it knows no job {number} any more") from error
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise self._lost(_first(error)) from error
                if not told:
                    say(f"the connection to {self.address} is lost; the job goes on, trying again")
                told = True
            await asyncio.sleep(1)

    async def _lines(self, number: str) -> Any:
        """Pieces of the log; in silence the job is asked for, which fails without a connection."""
        stream = self._client.tail_job_logs(number)
        piece = asyncio.ensure_future(anext(stream))
        try:
            while True:
                await asyncio.wait({piece}, timeout=LOOK_SECONDS)
                if not piece.done():
                    self._client.get_job_info(number)
                    continue
                with suppress(StopAsyncIteration):
                    yield piece.result()
                    piece = asyncio.ensure_future(anext(stream))
                    continue
                return
        finally:
            piece.cancel()

    def _jobs(self, key: str) -> list[JobDetails]:
        jobs = self._client.list_jobs()
        return [job for job in jobs if (job.submission_id or "").startswith(f"{key}-")]

    def _lost(self, reason: str) -> ServiceLost:
        return ServiceLost(
            f"{self.address}: Ray Jobs cannot be used there ({reason}). Likely causes: (1) no head "
            "with a dashboard listens there (`ray start --head --dashboard-host=...`), or the port "
            "is closed; (2) the cluster asks for a token, and this machine has none or another: "
            "copy ~/.ray/auth_token from the head; (3) its head was started anew. The run is in "
            "its store: the same command finds the job again, or resumes the run"
        )


def _token() -> str | None:
    """The token that Ray would use on this machine, by its own order of places."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / TOKEN)
    try:
        return place.read_text().strip()
    except OSError:
        return None


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
