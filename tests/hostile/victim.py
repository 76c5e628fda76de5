"""Reads what attacks are, in a process whose memory is limited; prints what became of each."""

import json
import resource
import sys
from pathlib import Path

SPACE = 2**29
"""Bytes of address space beyond those in use: fewer than any attack asks for."""


def main() -> None:
    from ood_core.errors import FarfieldError
    from ood_core.limits import Limits
    from ood_core.maps.readers import read_maps
    from ood_core.models.loading import load_model
    from tests.hostile.zarr_attacks import zarr_group

    place = Path(sys.argv[1])
    read_maps(str(zarr_group(place)), None, Limits())  # loads libraries and starts threads
    load_model("models/dead-leaves-32")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + SPACE,) * 2)
    for line in sys.stdin:
        name, path = json.loads(line)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            if name.startswith("base"):
                load_model(path, max_bytes=2**27)
            else:
                limits = Limits(max_bytes=2**24, max_maps=1000, max_header_bytes=2**23)
                read_maps(path, None, limits)
            kind, words = "read", ""
        except FarfieldError as error:
            kind, words = type(error).__name__, str(error)
        except BaseException as error:
            kind, words = f"not ours: {type(error).__name__}", str(error)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([name, kind, words, grown * 1024]), flush=True)


if __name__ == "__main__":
    main()
