"""Hands a run to a Ray cluster: what travels, and the command that is run there."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.settings import overridden, parse, read_yaml
from ood_core.errors import ConfigError, InputError
from ood_core.store.place import place_at


def submit_run(
    config: Path,
    out: str,
    address: str,
    *,
    sets: Sequence[str] = (),
    working_dir: Path | None = None,
    wheel: Path | None = None,
    runtime_env: Path | None = None,
    write: Callable[[str], None],
    say: Callable[[str], None],
) -> int:
    """Run a configuration by a driver inside the cluster, and follow it; return its exit code.

    A second call follows the job that is at work for `out`, or resumes the run. The configuration
    travels with the files of `working_dir`, which it must lie in, or alone. Paths in it are those
    of the cluster, or relative ones in `working_dir`. The code of `wheel` is put in front of that
    which the cluster has; what it depends on must be there.

    Args:
        config: file of the run.
        out: object store's address, or absolute path of a folder that the whole cluster sees.
        address: of the cluster's dashboard, such as `http://HEAD:8265`.
        sets: overrides of the configuration.
        working_dir: folder that travels.
        wheel: of this package.
        runtime_env: YAML of Ray's runtime environment, for the driver and all workers.
        write: takes the log of the driver, piece by piece.
        say: takes what is to be said beside it.

    Raises:
        InputError: something of this cannot be used; nothing is sent.
        ServiceLost: see `JobService`.
    """
    if "://" not in out and not Path(out).is_absolute():
        raise InputError(
            f"--out {out}: expected s3://bucket/prefix, or the absolute path of a folder that all "
            "nodes of the cluster share"
        )
    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"--address {address}: expected the address of the cluster's dashboard, such as "
            "http://HEAD:8265"
        )
    place_at(out)  # carries no credential
    parse(overridden(read_yaml(config), sets))
    environment = _environment(runtime_env)
    with tempfile.TemporaryDirectory(prefix="farfield-") as folder:
        where = _staged(Path(folder) / "job", config, working_dir, wheel)
        from actors.ray_jobs import JobService

        service = JobService(address)
        key = f"farfield-{hashlib.sha256(out.encode()).hexdigest()[:12]}"
        number = service.running(key)
        if number is None:
            options = [word for one in sets for word in ("--set", one)]
            command = ["python", "-m", "flows.cli.main", "run", str(where), "--out", out]
            command += ["--pool", "ray", "--orchestrator", "none", *options]
            sent = {**environment, "working_dir": str(Path(folder) / "job")}
            number = service.submit(key, command, sent)
            say(f"submitted as {number}; to stop it: ray job stop --address {address} {number}")
        else:
            say(f"{number} is at work for {out}: following it")
    return service.follow(number, write, say)


def _staged(folder: Path, config: Path, working_dir: Path | None, wheel: Path | None) -> Path:
    """Gather what travels in a folder; return where the configuration lies in it.

    Raises:
        InputError: a folder or file is not what it should be.
    """
    where = Path(config.name)
    if working_dir is None:
        folder.mkdir()
        shutil.copy(config, folder / where)
    else:
        try:
            where = config.resolve().relative_to(working_dir.resolve())
            shutil.copytree(working_dir, folder, ignore=shutil.ignore_patterns(".git"))
        except (OSError, ValueError, shutil.Error) as error:
            raise InputError(
                f"--working-dir {working_dir}: cannot be sent ({error}); expected a folder that "
                f"holds {config}"
            ) from error
    if wheel is not None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"--wheel {wheel}: no wheel that can be read ({error})") from error
    with suppress(OSError):  # Ray would leave out what it names
        (folder / ".gitignore").unlink()
    return where


def _environment(file: Path | None) -> Mapping[str, Any]:
    """The runtime environment that a file describes.

    Raises:
        ConfigError: no file of that kind, or it names a working folder of its own.
    """
    found = {} if file is None else read_yaml(file)
    if "working_dir" in found:
        raise ConfigError(f"{file}: got working_dir; expected it as --working-dir")
    return found
