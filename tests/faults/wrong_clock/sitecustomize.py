"""libfaketime 0.9.10 breaks `time.sleep` where it leaves the steady clock alone."""

import threading
import time


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


time.sleep = _sleep
