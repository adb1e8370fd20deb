"""A server whose arena is too small for all that is asked at a time: everybody waits a while, and nobody for good."""

import threading
from pathlib import Path

from conftest import ECHO, Serve, in_background, write_model


def test_large_and_small_requests_are_all_answered(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        write_model(tmp_path / "echo", ECHO),
        HEADRACE_WORKERS="1",
        HEADRACE_ARENA="4MiB",
        HEADRACE_MAX_REQUEST="2MiB",
        HEADRACE_MAX_RESPONSE="2MiB",
    )
    large_ones_are_served = threading.Event()

    def ask(number: int, size: int, count: int) -> int:
        """So many requests one after another; without a number, until the large ones are served."""
        done = 0
        while done < count or not (count or large_ones_are_served.is_set()):
            body = b"%d/%d " % (number, done) * (size // 8)
            answer = server.post("/models/echo/invoke", body)
            assert (answer.status, answer.body == body) == (200, True), answer.body[:200]
            done += 1
        return done

    small = [in_background(lambda number=number: ask(number, 50_000, 0)) for number in range(8)]
    large = [in_background(lambda number=number: ask(number, 1_200_000, 6)) for number in range(8, 12)]
    assert [result() for result in large] == [6] * 4
    large_ones_are_served.set()
    assert min(result() for result in small) > 0
    assert server.metric("headrace_slots_leased") == 0
