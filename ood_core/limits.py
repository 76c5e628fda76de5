"""How much of a foreign file is read: limits that a user can raise, and a stream that keeps to one.

A header can declare any size, and a small archive can unpack to any number of bytes. So sizes are
compared with a limit before memory is taken for them, and what declares no size is read through
`Metered`, which stops.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, final

BASE_BYTES = 16 * 2**30
"""Most bytes of the weights of a base, as stored and in float32, where nothing else is set."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Most that is read of target files.

    Attributes:
        max_bytes: bytes of all maps together, as stored and as float32.
        max_maps: maps, and files, HDUs, archive members or chunks that they lie in.
        max_header_bytes: bytes of one file that are no pixels: FITS headers, the directory of an
            archive, Zarr metadata.
    """

    max_bytes: int = 2**32
    max_maps: int = 100_000
    max_header_bytes: int = 2**25


USUAL = Limits()
"""The default: far beyond the 10 to 1,000 maps that a set of targets has."""


class TooMuch(Exception):
    """More was to be read than is allowed. No `ValueError`: parsers take those for bad syntax."""


@final
class Metered:
    """A binary stream of which only so many bytes may be read; seeking costs nothing.

    `look` is shown what is read until `allow` is called.
    """

    def __init__(
        self, stream: BinaryIO, most: int, look: Callable[[bytes], None] | None = None
    ) -> None:
        self._stream, self._left, self._look = stream, most, look
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        return self._stream.closed

    def seekable(self) -> bool:
        """Whether `seek` works."""
        return self._stream.seekable()

    def allow(self, more: int) -> None:
        """Let so many further bytes be read, whatever was left."""
        self._left, self._look = more, None

    def read(self, size: int | None = -1) -> bytes:
        """Read as any stream does.

        Raises:
            TooMuch: more bytes were requested, and are there, than may be read.
        """
        return self._taken(self._stream.read(self._at_most(size)))

    def readline(self, size: int | None = -1) -> bytes:
        """Read a line, as any stream does.

        Raises:
            TooMuch: as `read`.
        """
        return self._taken(self._stream.readline(self._at_most(size)))

    def _at_most(self, size: int | None) -> int:
        """One byte more than is allowed tells whether there is more."""
        most = self._left + 1
        return most if size is None or size < 0 else min(size, most)

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch
        if self._look is not None:
            self._look(data)
        return data
