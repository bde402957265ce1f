"""A tracker of the demo: `python -m extensions.demo.child serve`. It stops when its standard input ends.

The demo holds the other end of the pipe, so its trackers never outlive it, however it ends.
"""

import os
import runpy
import signal
import threading


def _stop_at_end_of_input() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    # The command line of the tracker is no part of the interface for extensions, so it is started by its name.
    runpy.run_module("tracker", run_name="__main__", alter_sys=True)
