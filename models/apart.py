"""Steps of descent in a process of their own, so that forecasts are made meanwhile: both ends of the pipe.

One Python process does one thing at a time: in a thread beside, a step of a few hundred small operations waits for the interpreter at
each of them, and gained 7 % where a process gained a third (LOG 2026-11-25). The weights lie in memory that both map; what goes through
the pipe is a lesson, and back what became of it. The numbers are the same, bit for bit, whoever counts.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Any

import numpy as np
import torch
from safetensors.numpy import load, save

from models.descent import ROWS, Descent, Outcome
from models.learner import Exercise, Learner
from models.lesson import Lesson, stepped
from models.network import Ensemble

ASKED = struct.Struct("<QQQ")  # bytes of the lesson that follows, steps and bad steps so far
READY = b"ready\n"
PIPE_BYTES = 1 << 20  # a lesson of 21 series has 200 KB; Linux gives 64 unless asked
# For a step, which takes a second at most, and for the child to see that its input has ended; nothing may block longer than 30 s.
PATIENCE_SECONDS = 25.0


class Gone(RuntimeError):  # noqa: N818 - reads as what happened
    """The process that learns has died; what it was at is done again from the last commit."""


class Apart:
    """A child that takes the steps of one learner. Ends with it, or when its parent's life does, whatever ended it."""

    def __init__(self, learner: Learner) -> None:
        """Raises OSError where there is no room for a temporary file of a few MB, or no process to be had."""
        descent = learner.descent
        size = descent.state.numel() * descent.state.element_size()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(size))  # not `truncate`: where there is no room, this is an error, and a hole would be a signal later
            file.flush()
            descent.move(shared(file, size))
            plan = json.dumps({**learner.plan(), "size": size})
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "models.apart", str(file.fileno()), plan],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pass_fds=(file.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._said = b""
        self._ready = False
        self.failed = False  # it has ended before it was ready: nothing is to be hoped of it
        stdin = self._pipe(self._child.stdin)
        os.set_blocking(stdin.fileno(), False)
        with suppress(OSError, AttributeError):  # where it cannot be had, a lesson goes through in pieces, and we wait for the child's eyes
            fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def ready(self) -> bool:
        """The child has loaded what it needs: it takes seconds, in which its parent may as well take the steps itself."""
        if not (self._ready or self.failed) and select.select([self._pipe(self._child.stdout)], [], [], 0)[0]:
            self._ready = self._line() == READY
            self.failed = not self._ready
        return self._ready

    def start(self, exercise: Exercise) -> None:
        """Returns once the child has it. Raises Gone."""
        descent, body = exercise.descent, save(dict(zip(Lesson._fields, map(np.ascontiguousarray, exercise.whole), strict=True)))
        stdin, left = self._pipe(self._child.stdin), memoryview(ASKED.pack(len(body), descent.steps, descent.bad) + body)
        try:
            while left:
                if not select.select([], [stdin], [], PATIENCE_SECONDS)[1]:
                    raise self._gone()
                left = left[stdin.write(left) or 0 :]
        except BrokenPipeError as error:
            raise self._gone() from error

    def wait(self, exercise: Exercise) -> None:
        """Until the exercise has run. Raises Gone."""
        line = self._line()
        if not line.endswith(b"\n"):
            raise self._gone()
        outcome, exercise.descent.steps, exercise.descent.bad = json.loads(line)
        exercise.outcome = Outcome(*outcome)

    def close(self) -> None:
        self._pipe(self._child.stdin).close()
        if not self._ready:
            self._child.kill()  # still loading: there is nothing to wait for
        try:
            self._child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pipe(self._child.stdout).close()

    def _line(self) -> bytes:
        """What the child says next, with its end; without, if it has ended or said nothing for so long."""
        stdout = self._pipe(self._child.stdout)
        while b"\n" not in self._said:
            if not select.select([stdout], [], [], PATIENCE_SECONDS)[0] or not (more := stdout.read(4096)):
                return self._said
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line + b"\n"

    def _gone(self) -> Gone:
        self._child.kill()  # it may only have been stopped: its parent must not wait for it for ever
        code = self._child.wait()
        return Gone(f"the process that learns (pid {self._child.pid}) has ended, or did not answer (exit code {code}): out of memory?")

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def shared(file: Any, size: int) -> torch.Tensor:
    """(ROWS, P) float32 over a file: whoever maps the same one sees the same numbers."""
    return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.float32).view(ROWS, -1)


def serve(requests: IO[bytes], answers: Any, descent: Descent, levels: torch.Tensor) -> None:
    """Take steps until nobody asks any more. `answers` is not buffered."""
    answers.write(READY)
    while len(head := requests.read(ASKED.size)) == ASKED.size:
        length, descent.steps, descent.bad = ASKED.unpack(head)
        body = requests.read(length)
        if len(body) < length:
            return  # whoever asked has died in the middle of it
        outcome = stepped(descent, Lesson(**load(body)), levels)
        answers.write(json.dumps([outcome, descent.steps, descent.bad]).encode() + b"\n")


def main() -> None:
    # Whoever stops the parent may signal all of its processes: what is under way is finished first, and the pipe says when it is over
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    plan = json.loads(sys.argv[2])
    with open(int(sys.argv[1]), "r+b") as file:  # noqa: PTH123 - a descriptor has no path
        state = shared(file, plan["size"])
    descent = Descent(Ensemble(**plan["network"]), **plan["descent"], state=state)
    with suppress(BrokenPipeError), open(1, "wb", buffering=0) as answers:
        serve(sys.stdin.buffer, answers, descent, torch.tensor(plan["network"]["levels"]))


if __name__ == "__main__":
    main()
