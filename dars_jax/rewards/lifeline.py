"""A worker that does not outlive its trainer, whatever either of them is doing.

The trainer holds one end of a pipe and never writes; the worker asks the kernel to kill it when the
other end is closed, which the kernel does however the trainer ends.  The end of standard input is
noticed only between two answers, and PR_SET_PDEATHSIG would come with the end of a mere thread.
"""

import fcntl
import os
import select
import signal


def tie(end: int) -> None:
    """Ties this process to whoever holds the other end of a pipe; it is killed with them.

    Args:
      end: descriptor for reading.
    """
    fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)  # not SIGIO, which may be blocked or ignored
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([end], [], [], 0)[0]:  # closed before we asked
        os.kill(os.getpid(), signal.SIGKILL)
