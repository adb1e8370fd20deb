"""What may block is done by a thread, in order and within bounds."""

import threading

from headrace.handover import Handover

WATCHDOG_S = 30.0


def test_things_are_done_in_order_and_all_of_them_before_the_end():
    done = []
    handover = Handover("t", done.append, 1000)
    for number in range(1000):
        handover.put(number, 1)
    assert handover.close(WATCHDOG_S)
    assert done == list(range(1000))
    assert handover.dropped == 0


def test_what_finds_no_room_is_dropped_and_counted_and_put_does_not_wait():
    is_begun, may_go_on, done = threading.Event(), threading.Event(), []

    def work(thing):
        is_begun.set()
        assert may_go_on.wait(WATCHDOG_S)
        done.append(thing)

    handover = Handover("t", work, 10)
    handover.put("a", 4)
    assert is_begun.wait(WATCHDOG_S)
    handover.put("b", 6, 5)  # what is being done takes its room still
    handover.put("c", 1, 3)
    assert handover.dropped == 3
    assert not handover.close(0.0)  # it is left at work
    may_go_on.set()
    assert handover.close(WATCHDOG_S)
    assert done == ["a", "b"]


def test_what_was_done_gives_its_room_back():
    is_done, handover = threading.Semaphore(0), None

    def work(thing):
        is_done.release()

    handover = Handover("t", work, 2)
    for _ in range(100):
        handover.put(None, 1)
        assert is_done.acquire(timeout=WATCHDOG_S)
    assert handover.close(WATCHDOG_S)
    assert handover.dropped == 0


def test_work_that_raises_is_logged_and_ends_nothing(capfd):
    done = []

    def work(number):
        done.append(1 // number)

    handover = Handover("writer", work, 10)
    handover.put(0, 1)
    handover.put(1, 1)
    assert handover.close(WATCHDOG_S)
    assert done == [1]
    assert "handover.broke thread=writer" in capfd.readouterr().err
