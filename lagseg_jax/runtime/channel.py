"""Messages between the processes of one run: JSON over sockets, by way of the first process.

JAX's own collectives would do for values, but they give up after a time limit (30 minutes on CPUs)
while one process has hours of work, they answer no signal, and through them a process that fails
cannot say why.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import numpy as np

from lagseg_jax.runtime.errors import InputError

INVITATION_BYTES = 512
GONE = "it has ended without a word, killed perhaps"


class Channel:
    """What the processes of a run tell each other.

    A thread for each connection puts what comes into the attributes, under the lock of `changed`.

    Attributes:
        failures: (index, exit status, sentence) of the processes that have failed, first one first.
        left: indices of the processes that need the others no more.
        changed: notified whenever something has come.
    """

    def __init__(self, index: int, count: int):
        self._index, self._count = index, count
        self._connections: dict[int, Connection] = {}
        self._gathered: dict[int, dict[int, Any]] = {}  # of the first process: what has come so far
        self._answers: dict[int, list] = {}
        self._meetings = 0
        self._steps: dict[int, int] = {}  # of the first process: step that each one is at
        self._step: int | None = None  # that this process is at
        self._hold = self._told = self._closing = False
        self._stop_at: int | None = None
        self.failures: list[tuple[int, int, str]] = []
        self.left: set[int] = set()
        self.changed = threading.Condition(threading.RLock())
        self._connect()

    def allgather(self, value: Any) -> list:
        """What every process gave, by process; waits for all of them, without a time limit."""
        with self.changed:
            meeting, self._meetings = self._meetings, self._meetings + 1
            self._tell_first(kind="value", meeting=meeting, value=value)
            while meeting not in self._answers:
                self.changed.wait(0.05)  # signals are answered meanwhile
            return self._answers.pop(meeting)

    def preempted(self, step: int, asked: bool) -> bool:
        """Whether to stop after this step, the same one in all processes.

        The steps of different processes wait for each other, so nobody may stop before a step that
        another one has begun. Whoever is asked tells the first process; that one asks all for their
        steps, none of which begins another one meanwhile, and names the largest.

        Args:
            step: that this process has done.
            asked: whether this process was asked to stop.
        """
        with self.changed:
            self._step = step
            if asked and not self._hold:
                self._tell_first(kind="stop")
            if self._hold and not self._told:
                self._tell_step()
            while (asked or self._hold) and self._stop_at is None:
                self.changed.wait(0.05)
            if self._stop_at is not None:
                return step >= self._stop_at
            self._step = step + 1
            return False

    def fail(self, status: int, sentence: str) -> None:
        """Tells all processes that this one ends."""
        self._tell_first(kind="failed", status=status, sentence=sentence)

    def leave(self) -> None:
        """Tells all processes that this one needs them no more, and may be gone at any time."""
        self._tell_first(kind="left")

    def close(self) -> None:
        """Ends the connections, which the threads that read from them then close."""
        self._closing = True
        for connection in self._connections.values():
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(connection.fileno())) as s,
            ):
                s.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> None:
        """Finds the first process by an invitation that goes over JAX's devices."""
        from jax.experimental.multihost_utils import broadcast_one_to_all

        listener, invitation = None, b""
        if self._index == 0:
            key = secrets.token_bytes(32)
            listener = Listener(("", 0), backlog=self._count, authkey=key)
            content = {"hosts": _own_addresses(), "port": listener.address[1], "key": key.hex()}
            invitation = json.dumps(content).encode()
        padded = np.frombuffer(invitation.ljust(INVITATION_BYTES), np.uint8)
        content = json.loads(bytes(np.asarray(broadcast_one_to_all(padded)).astype(np.uint8)))
        if listener is None:
            self._add(0, _call(content))
            self._connections[0].send_bytes(json.dumps(self._index).encode())
            return
        with listener:
            while len(self._connections) < self._count - 1:
                with contextlib.suppress(Exception):  # a stranger who does not know the key
                    connection = listener.accept()
                    self._add(json.loads(connection.recv_bytes()), connection)

    def _add(self, index: int, connection: Connection) -> None:
        self._connections[index] = connection
        threading.Thread(target=self._listen, args=(index, connection), daemon=True).start()

    def _listen(self, index: int, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                self._receive(**json.loads(connection.recv_bytes()))
        if index not in self.left and not self._closing:
            self._receive(kind="failed", index=index, status=1, sentence=GONE)

    def _tell_first(self, **message: Any) -> None:
        message["index"] = self._index
        if self._index == 0:
            self._receive(**message)
        else:
            self._send(0, message)

    def _tell_all(self, **message: Any) -> None:
        for index in self._connections:
            self._send(index, message)

    def _send(self, index: int, message: dict) -> None:
        with self.changed, contextlib.suppress(OSError):  # who is gone shows in `_listen`
            self._connections[index].send_bytes(json.dumps(message).encode())

    def _receive(self, kind: str, **message: Any) -> None:
        with self.changed:
            getattr(self, f"_on_{kind}")(**message)
            self.changed.notify_all()

    def _on_value(self, index: int, meeting: int, value: Any) -> None:
        values = self._gathered.setdefault(meeting, {})
        values[index] = value
        if len(values) == self._count:
            answer = [values[i] for i in range(self._count)]
            del self._gathered[meeting]
            self._tell_all(kind="answer", meeting=meeting, values=answer)
            self._on_answer(meeting, answer)

    def _on_answer(self, meeting: int, values: list) -> None:
        self._answers[meeting] = values

    def _on_failed(self, index: int, status: int, sentence: str) -> None:
        self.failures.append((index, status, sentence))
        if self._index == 0:
            self._tell_all(kind="failed", index=index, status=status, sentence=sentence)

    def _on_left(self, index: int) -> None:
        self.left.add(index)
        if self._index == 0 == index:
            self._tell_all(kind="left", index=0)

    def _on_stop(self, index: int) -> None:
        if not self._hold:
            self._tell_all(kind="hold")
            self._on_hold()

    def _on_hold(self) -> None:
        self._hold = True
        if self._step is not None:  # else once the first step is near
            self._tell_step()

    def _tell_step(self) -> None:
        self._told = True
        self._tell_first(kind="step", step=self._step)

    def _on_step(self, index: int, step: int) -> None:
        self._steps[index] = step
        if len(self._steps) == self._count:
            self._tell_all(kind="stop_at", step=max(self._steps.values()))
            self._on_stop_at(max(self._steps.values()))

    def _on_stop_at(self, step: int) -> None:
        self._stop_at = step


def _own_addresses() -> list[str]:
    """Addresses under which other processes may reach this machine."""
    found = ["127.0.0.1"]
    with contextlib.suppress(OSError):
        found.append(socket.gethostbyname(socket.gethostname()))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))  # sends nothing; shows which interface would
        found.append(probe.getsockname()[0])
    return list(dict.fromkeys(reversed(found)))


def _call(invitation: dict) -> Connection:
    for host in invitation["hosts"]:
        with contextlib.suppress(Exception):  # not that one, or somebody else there
            return Client((host, invitation["port"]), authkey=bytes.fromhex(invitation["key"]))
    raise InputError(
        f"the first process cannot be reached at {', '.join(invitation['hosts'])}, port "
        f"{invitation['port']}, expected a network that lets the processes of a run connect"
    )
