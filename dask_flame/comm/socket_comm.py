"""A connection over a Unix socket, as distributed uses it (all places)."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any

from distributed.comm.core import Comm, CommClosedError
from distributed.comm.utils import from_frames, to_frames
from distributed.utils import ensure_memoryview

from dask_flame.comm.addresses import PREFIX
from dask_flame.comm.channel import Channel
from dask_flame.comm.sizes import is_small
from dask_flame.core.threads import is_at_exit


class SocketComm(Comm):
    """A connection between two processes of the same user.

    Parameters
    ----------
    channel : Channel
    local, peer : str
        Addresses.
    deserialize : bool, default True
        Whether :meth:`read` unpickles the objects in a message.
    """

    def __init__(self, channel: Channel, local: str, peer: str, deserialize: bool = True) -> None:
        super().__init__(deserialize=deserialize)
        self._channel = channel
        # distributed's `connect` reads these two.
        self._local_addr = local
        self._peer_addr = peer
        self._dangling = weakref.finalize(self, channel.close_from_anywhere)
        self._dangling.atexit = False

    @property
    def local_address(self) -> str:
        return self._local_addr

    @property
    def peer_address(self) -> str:
        return self._peer_addr

    @property
    def same_host(self) -> bool:
        return True

    async def read(self, deserializers: Any = None) -> Any:
        try:
            frames = await self._channel.receive()
        except EOFError:
            self.abort()
            raise CommClosedError(f"in {self}: the connection is closed") from None
        except BaseException:
            # A part of a message may have been read: nothing after it can be understood.
            self.abort()
            raise
        try:
            return await from_frames(
                frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError:
            self.abort()
            raise CommClosedError(f"in {self}: a message is not complete") from None
        except RuntimeError as error:
            if not is_at_exit(error):
                raise
            self.abort()
            raise CommClosedError(f"in {self}: this process exits") from error

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        if self._channel.ended:
            raise CommClosedError(f"in {self}: the connection is closed")
        frames = await to_frames(
            msg,
            allow_offload=self.allow_offload and not is_small(msg),
            serializers=serializers,
            on_error=on_error,
            context={
                "sender": self.local_info,
                "recipient": self.remote_info,
                **self.handshake_options,
            },
            frame_split_size=sys.maxsize,
        )
        try:
            return self._channel.send([ensure_memoryview(frame) for frame in frames])
        except EOFError as error:
            self.abort()
            raise CommClosedError(f"in {self}: {error.__cause__ or 'closed'}") from error
        except BaseException:
            self.abort()  # a part of the message may have been written
            raise

    async def close(self) -> None:
        self._dangling.detach()
        try:
            await self._channel.flush()
        finally:
            self._channel.close()

    def abort(self) -> None:
        self._dangling.detach()
        self._channel.close()

    def closed(self) -> bool:
        return self._channel.ended


def check_encryption(address: str, connection_args: Mapping[str, Any]) -> None:
    """Refuse an unencrypted connection if Dask's configuration requires encryption.

    Raises
    ------
    RuntimeError
    """
    if connection_args.get("require_encryption"):
        raise RuntimeError(
            "encryption required by Dask configuration, refusing communication from/to "
            f"{PREFIX + address!r}"
        )
