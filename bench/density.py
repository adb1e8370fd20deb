"""How much memory a model costs beyond its weights, how fast models are loaded, and whether all of it comes back.

    python -m bench.density [--models 1000] [--cycles 10] [--workers 2]

Loads all models by POST /models from four clients, uses each once, unloads them again, `cycles` times. Memory is the
proportional set size of all processes, read by the kernel; what is left, at once after the last unload and SETTLE_S
later, when workers whose models are gone have been replaced. The clients share the machine's cores with the server.
"""

import argparse
import sys
import time
from pathlib import Path

from bench import procfs, store

SETTLE_S = 6.0  # one worker is replaced at each look, a second apart, once it was empty for two


def main() -> int:
    return store.run("density", __doc__, {"models": 1000, "cycles": 10, "workers": 2}, measure)


def measure(place: Path, options: argparse.Namespace) -> dict[str, object]:
    count, rounds = options.models, []
    store.write(place, count)
    with store.server(place, None, options.workers).running() as running:
        store.in_parallel(store.Client.load, running.port, place, range(1))  # what the first load brings with it
        store.in_parallel(store.Client.unload, running.port, place, range(1))
        empty_bytes = procfs.pss_bytes(running.pid)
        for _ in range(options.cycles):
            began = time.monotonic()
            store.in_parallel(store.Client.load, running.port, place, range(count))
            loaded = time.monotonic()
            full_bytes = procfs.pss_bytes(running.pid)
            store.in_parallel(store.Client.invoke, running.port, place, range(count))
            used = time.monotonic()
            used_bytes = procfs.pss_bytes(running.pid)
            store.in_parallel(store.Client.unload, running.port, place, range(count))
            ended = time.monotonic()
            left_bytes = procfs.pss_bytes(running.pid)
            time.sleep(SETTLE_S)
            rounds.append(
                {
                    "loads_per_s": round(count / (loaded - began), 1),
                    "unloads_per_s": round(count / (ended - used), 1),
                    "kib_beyond_weights": round(((full_bytes - empty_bytes) / count - store.WEIGHTS_BYTES) / 1024, 2),
                    "kib_beyond_weights_used": round(
                        ((used_bytes - empty_bytes) / count - store.WEIGHTS_BYTES) / 1024, 2
                    ),
                    "full_mib": round(full_bytes / 2**20, 1),
                    "left_at_once_mib": round((left_bytes - empty_bytes) / 2**20, 2),
                    "left_mib": round((procfs.pss_bytes(running.pid) - empty_bytes) / 2**20, 2),
                    "descriptors": procfs.descriptors(running.pid),
                }
            )
    empty_mib = round(empty_bytes / 2**20, 1)
    return {
        "models": count,
        "workers": options.workers,
        "empty_mib": empty_mib,
        "spread": store.spread(rounds),
        "rounds": rounds,
    }


if __name__ == "__main__":
    sys.exit(main())
