# SPDX-License-Identifier: GPL-2.0-only
"""A socket of this machine that is a channel of a program on the target."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from harness.agent import PIECE
from harness.channel import Channel
from harness.operations import TargetError


def bridged(channel: Channel, wait_for_end: Callable[[], None]) -> socket.socket:
    """Return a connected socket; two threads move its data to and from the channel.

    `wait_for_end` returns when the program has ended, or the target is lost.
    """
    ours, theirs = socket.socketpair()
    threads = [
        threading.Thread(target=_to_socket, args=(channel, ours, wait_for_end)),
        threading.Thread(target=_to_channel, args=(channel, ours)),
    ]
    for thread in threads:
        thread.name, thread.daemon = f"{thread.name} of {channel}", True
        thread.start()
    threading.Thread(target=_close, args=(ours, threads), daemon=True).start()
    return theirs


def _to_socket(channel: Channel, end: socket.socket, wait_for_end: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, TargetError):
        while data := channel.receive(None):
            if channel.dropped:
                break  # a stream with a gap is worse than none
            end.sendall(data)
        else:
            end.shutdown(socket.SHUT_WR)
            wait_for_end()  # the program may still read
    _shut_down(end, socket.SHUT_RDWR)


def _to_channel(channel: Channel, end: socket.socket) -> None:
    with contextlib.suppress(OSError, TargetError):
        while data := end.recv(PIECE):
            channel.send(data, None)
        channel.close_sending(None)
    _shut_down(end, socket.SHUT_RD)  # what is sent now goes nowhere: let the sender know


def _shut_down(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        end.shutdown(how)


def _close(end: socket.socket, threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
    end.close()
