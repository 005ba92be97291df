"""The process of lives: `python -m torment.lives.child`. It has imported all and opened nothing, and forks a life when asked for one.

Standard input: a line of JSON begins a life, `kill` ends it with SIGKILL, `wait` waits until it ends by itself. Standard
output: what the life tells, `struck` when it was killed, `end STATUS` when it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
import warnings

import trio

import perdure.backends.lmdb  # noqa: F401 - before the fork, not in each life
from perdure.actors import snapshots
from torment.lives import boots
from torment.lives.work import Life, live
from torment.stores import STORES

snapshots.EVENTS, snapshots.IDLE_S = 25, 0.05  # type: ignore[misc]  # so that snapshots are written all the time


def tell(*words: object) -> None:
    """One line, by one call: a life that is killed leaves no half of one."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    """Lives on request, one at a time."""
    pid = 0
    for line in sys.stdin:
        if line == "kill\n":
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so it is still ours
            tell("struck")
        elif line != "wait\n":
            pid = os.fork()
            if pid == 0:
                run(Life(**json.loads(line)))
            continue
        _, status = os.waitpid(pid, 0)
        tell("end", status)


def run(life: Life) -> None:
    """Be that life; does not return."""
    try:
        logging.disable(logging.ERROR)  # what a supervisor deals with is no complaint
        if life.boot:
            boots.pretend(life.boot)
        for kind in STORES:
            if kind.name == life.unsynced and kind.unsync:
                kind.unsync()
        trio.run(live, life, tell)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
