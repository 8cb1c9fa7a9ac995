"""The clients of `benchmarks.thousand_clients` as locust runs them; needs nothing of ours.

TOKEN and THINK (mean seconds between an answer and the next prompt) come from the environment.
"""

from __future__ import annotations

import itertools
import os
import random
import time

from locust import FastHttpUser, task  # in an environment of its own: benchmarks/peers.sh

THINK = float(os.environ["THINK"])
_numbers = itertools.count()
_stamp = f"{time.time_ns():x}"
_WORDS = ("amber", "basil", "cedar", "dune", "ember", "fjord", "grove", "heron", "iris", "kelp")


class Client(FastHttpUser):
    """Sends a prompt, waits for its answer, thinks."""

    def wait_time(self) -> float:
        """Seconds until the next prompt."""
        return random.uniform(0.5, 1.5) * THINK

    def on_start(self) -> None:
        """Clients do not all begin at once."""
        time.sleep(random.uniform(0, THINK))

    @task
    def ask(self) -> None:
        """A prompt like no other."""
        prompt = f"Note {_stamp}-{next(_numbers)}: {' '.join(random.choices(_WORDS, k=24))}"
        self.client.post(
            "/v1/inference?wait=30",
            json={"prompt": prompt, "max_tokens": 200},
            headers={"Authorization": f"Bearer {os.environ['TOKEN']}"},
        )
