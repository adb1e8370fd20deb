"""How long a model that kills its workers is set aside: only after a series, ever longer, and as new after calm."""

from headrace.quarantine import DEATHS, FIRST_S, LAST_S, WINDOW_S, Quarantine, Record


def die(record, *times):
    return [Quarantine.judge(record, at) for at in times]


def test_a_series_within_the_window_sets_aside_and_fewer_deaths_do_not():
    assert die(Record(), *range(DEATHS)) == [0.0] * (DEATHS - 1) + [FIRST_S]


def test_deaths_further_apart_are_no_series():
    assert die(Record(), *(at * (WINDOW_S / (DEATHS - 1) + 1) for at in range(20))) == [0.0] * 20


def test_each_pause_is_twice_as_long_up_to_the_last():
    record, now, pauses = Record(), 0.0, []
    die(record, *[now] * (DEATHS - 1))
    for _ in range(12):
        (pause,) = die(record, now)
        pauses.append(pause)
        now += pause + 1  # it dies again as soon as it is back
    assert pauses[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert pauses[-2:] == [LAST_S, LAST_S]
    assert pauses == sorted(pauses)


def test_after_calm_it_starts_over():
    record = Record()
    (*_, pause) = die(record, *[0.0] * DEATHS)
    assert pause == FIRST_S
    calm = FIRST_S + WINDOW_S + 1
    assert die(record, *[calm] * DEATHS) == [0.0] * (DEATHS - 1) + [FIRST_S]


def test_one_death_soon_after_its_return_is_enough():
    record = Record()
    die(record, *[0.0] * DEATHS)
    assert die(record, FIRST_S + WINDOW_S - 1) == [2 * FIRST_S]
