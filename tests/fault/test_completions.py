"""Completions that are wrong in every field: the frontend never breaks, never shows another request's bytes, answers
the victim once, and has all its slots back."""

import pytest
from rig import Client, Peer, Rig, rigged, wait_until
from wire import COMPLETE_TAIL, DONE, GRANT, HELD, NEED, RELEASE, RING_ENTRIES, SUBMIT_HEAD, SUBMIT_TAIL, Submission

SECRET = b"another client's secret " * 40
BIG = (1 << 32) - 1


@pytest.fixture
def rig():
    with rigged() as rig:
        yield rig


@pytest.fixture
def scene(rig):
    """A rig, its worker's end, a victim with its submission, and a neighbour whose body nobody else may see."""
    peer = rig.peers[0]
    neighbour = rig.connect().post(SECRET)
    secret = peer.take()
    victim = rig.connect().post(b"the victim's")
    entry = peer.take()
    yield rig, peer, victim, entry, secret
    peer.echo(secret)
    status, _, body = neighbour.answer()
    assert (status, body) == (200, SECRET)


def restart(rig: Rig, peer: Peer, *entries: Submission) -> list[Submission]:
    """The supervisor ends a suspect worker; the successor is given what was left undone."""
    wait_until(lambda: rig.suspects == [0], f"suspects: {rig.suspects}")
    rig.replace(0)
    again = [peer.take() for _ in entries]
    assert [entry.request_id for entry in again] == [entry.request_id for entry in entries]
    return again


@pytest.mark.parametrize(
    "change",
    [
        {"slot": 1 << 20},
        {"slot": BIG},
        {"slot": 4096},
        {"generation": 1},
        {"generation": BIG},
        {"request_id": 0},
        {"request_id": 1 << 63},
        {"op": RELEASE},
        {"op": RELEASE, "flags": HELD},
    ],
)
def test_should_ignore_what_names_nothing_and_call_the_worker_suspect(rig, change):
    peer = rig.peers[0]
    victim = rig.connect().post(b"the victim's")
    entry = peer.take()
    peer.publish(entry, **change)
    (again,) = restart(rig, peer, entry)
    assert rig.stats()["invalid_completions"] == 1
    peer.echo(again)
    assert victim.answer()[::2] == (200, b"the victim's")


def test_should_not_take_a_worker_at_its_word_about_another_worker_s_slot():
    with rigged(workers=2) as rig:
        first, second = rig.peers
        clients = [rig.connect().post(SECRET), rig.connect().post(b"mine")]
        entries = [first.take(), second.take()]
        second.publish(entries[0], body_length=len(SECRET))
        wait_until(lambda: rig.suspects == [1], "no suspect")
        first.echo(entries[0])
        second.echo(entries[1])
        assert sorted(client.answer()[2] for client in clients) == sorted([SECRET, b"mine"])


@pytest.mark.parametrize(
    "change",
    [
        {"offset": BIG, "fields_length": 1},
        {"fields_length": BIG},
        {"fields_length": 40_000},
        {"body_offset": BIG},
        {"body_offset": 1 << 20, "body_length": 1},
        {"body_length": BIG},
        {"body_length": 1 << 20},
        {"body_offset": BIG, "body_length": BIG},
        {"status": 0},
        {"status": 101},
        {"status": 199},
        {"status": 600},
        {"status": 65535},
        {"op": 3},
        {"op": 255},
    ],
)
def test_should_answer_500_for_an_answer_that_cannot_be_sent(scene, change):
    rig, peer, victim, entry, _ = scene
    peer.publish(entry, **change)
    status, _, body = victim.answer()
    assert status == 500
    assert SECRET[:20] not in body
    assert rig.stats()["invalid_completions"] == 1
    victim.post(b"again")
    peer.echo(peer.take())
    assert victim.answer()[2] == b"again"


@pytest.mark.parametrize(
    "lines",
    [
        b"x: a\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"x: a\nset-cookie: b\r\n",
        b"x: a\rset-cookie: b\r\n",
        b"x: a",
        b"x: a\r\n\r\n",
        b"no colon\r\n",
        b"x: a\r\n: empty name\r\n",
        b"two words: a\r\n",
        b"x: \0\r\n",
        b"content-length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"connection: close\r\n",
        b"x : a\r\n",
        b" folded: a\r\n",
    ],
)
def test_should_let_no_field_line_split_an_answer(scene, lines):
    _, peer, victim, entry, _ = scene
    peer.write(entry, entry.room, lines)
    peer.publish(entry, offset=entry.room, fields_length=len(lines))
    status, fields, _ = victim.answer()
    assert status == 500
    assert "set-cookie" not in fields
    victim.post(b"in step")
    peer.echo(peer.take())
    assert victim.answer()[2] == b"in step"


def test_should_not_send_field_lines_that_are_changed_after_they_were_judged(scene):
    _, peer, victim, entry, _ = scene
    good, bad = b"x: 1234\r\n", b"\r\n\r\nsplit"
    # Behind an unanswered request the answer is judged now, and sent later.
    victim.post(b"second")
    second = peer.take()
    peer.write(second, second.room, good)
    peer.publish(second, offset=second.room, fields_length=len(good))
    wait_until(peer.taken, "not taken")
    peer.write(second, second.room, bad)
    peer.echo(entry)
    assert victim.answer()[2] == b"the victim's"
    assert victim.answer()[1]["x"] == "1234"


def test_should_answer_once_however_often_it_is_answered(scene):
    rig, peer, victim, entry, _ = scene
    for body in (b"first", b"second", b"third"):
        peer.write(entry, entry.room, body)
        peer.publish(entry, body_offset=entry.room, body_length=len(body), wake=False)
    rig.ring()
    assert victim.answer()[0] == 200
    wait_until(lambda: rig.stats()["invalid_completions"] == 2, "duplicates pass")
    victim.post(b"next")
    following = peer.take()
    peer.echo(following)
    assert victim.answer()[2] == b"next"


def test_should_keep_a_slot_whose_view_is_held_until_it_is_released_and_only_then(scene):
    rig, peer, victim, entry, _ = scene
    peer.publish(entry, flags=HELD, body_length=entry.body_length)
    assert victim.answer()[2] == b"the victim's"
    assert rig.stats()["slots_leased"] == 2
    peer.publish(entry)  # a second answer must not free what the model still looks at
    peer.publish(entry, op=NEED, body_length=5)
    wait_until(lambda: rig.stats()["invalid_completions"] == 2, "a held slot is answered again")
    assert rig.stats()["slots_leased"] == 2
    peer.publish(entry, op=RELEASE)
    wait_until(lambda: rig.stats()["slots_leased"] == 1, "not released")
    peer.publish(entry, op=RELEASE)
    wait_until(lambda: rig.stats()["invalid_completions"] == 3, "released twice")


def granted(peer: Peer, entry: Submission, length: int) -> Submission:
    peer.publish(entry, op=NEED, body_length=length)
    grant = peer.take()
    assert (grant.op, grant.request_id) == (GRANT, entry.request_id)
    return grant


def test_should_grant_a_larger_slot_once(scene):
    rig, peer, victim, entry, _ = scene
    grant = granted(peer, entry, 500_000)
    assert grant.capacity >= 500_000
    peer.publish(entry, op=NEED, body_length=500_000)
    peer.publish(grant, op=NEED, body_length=500_000)
    wait_until(lambda: rig.stats()["invalid_completions"] == 2, "granted twice")
    peer.write(grant, 0, b"z" * 500_000)
    peer.publish(grant, body_length=500_000)
    assert victim.answer()[2] == b"z" * 500_000


@pytest.mark.parametrize("length", [(1 << 20) + 32_769, BIG])
def test_should_refuse_an_answer_that_is_too_large(scene, length):
    _, peer, victim, entry, _ = scene
    grant = granted(peer, entry, length)
    assert grant.capacity == 0
    peer.publish(entry, status=507)
    assert victim.answer()[0] == 507


def test_should_take_back_a_granted_slot_that_was_not_used(scene):
    rig, peer, victim, entry, _ = scene
    granted(peer, entry, 100_000)
    peer.answer(entry, b"small after all")
    assert victim.answer()[2] == b"small after all"
    wait_until(lambda: rig.stats()["slots_leased"] == 1, "the granted slot is lost")


def test_should_take_both_slots_back_when_the_answer_in_the_granted_one_is_bad(scene):
    rig, peer, victim, entry, _ = scene
    grant = granted(peer, entry, 100_000)
    peer.publish(grant, body_offset=BIG, body_length=5)
    assert victim.answer()[0] == 500
    wait_until(lambda: rig.stats()["slots_leased"] == 1, "slots are lost")


@pytest.mark.parametrize("is_granted", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
def test_should_have_all_slots_back_when_the_client_leaves_before_the_answer(scene, is_granted, is_held):
    rig, peer, victim, entry, _ = scene
    answer = granted(peer, entry, 100_000) if is_granted else entry
    victim.reset()
    wait_until(lambda: peer.is_cancelled(entry), "the worker is not told")
    assert rig.stats()["abandoned"] == 1
    assert rig.stats()["slots_leased"] == 2 + is_granted
    peer.publish(answer, flags=HELD if is_held else 0)
    wait_until(lambda: rig.stats()["slots_leased"] == 1 + is_held, "slots are lost")
    if is_held:
        peer.publish(entry, op=RELEASE)
        wait_until(lambda: rig.stats()["slots_leased"] == 1, "the held slot is lost")
    assert rig.suspects == []


@pytest.mark.parametrize("is_granted", [False, True])
def test_should_answer_504_at_the_deadline_and_take_a_late_answer_for_nothing(rig, is_granted):
    peer = rig.peers[0]
    victim = rig.connect().post(b"slow", "x-headrace-timeout-ms: 60")
    entry = peer.take()
    assert entry.deadline_ns - entry.arrival_ns == 60_000_000
    answer = granted(peer, entry, 100_000) if is_granted else entry
    status, _, body = victim.answer()
    assert (status, b"X-Headrace-Timeout-Ms" in body) == (504, True)
    assert peer.is_cancelled(entry)
    peer.publish(answer)
    victim.post(b"next")
    peer.echo(peer.take())
    assert victim.answer()[2] == b"next"
    assert rig.suspects == []


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "1e3", "99999999999999", "60\r\nx-headrace-timeout-ms: 60"])
def test_should_refuse_a_time_out_that_is_no_number(rig, text):
    client = rig.connect().post(b"x", f"x-headrace-timeout-ms: {text}")
    status, _, body = client.answer()
    assert (status, b"whole number of milliseconds" in body) == (400, True)
    client.post(b"y")
    peer = rig.peers[0]
    peer.echo(peer.take())
    assert client.answer()[2] == b"y"


def test_should_survive_cursors_that_jump(scene):
    rig, peer, victim, entry, _ = scene
    tail = peer.word(COMPLETE_TAIL)
    for jump in (1 << 63, RING_ENTRIES + 1, -1):
        peer.set_word(COMPLETE_TAIL, tail + jump)
        rig.ring()
    peer.set_word(COMPLETE_TAIL, tail)
    peer.set_word(SUBMIT_HEAD, 1 << 62)  # the frontend may think the ring full, and no more
    peer.set_word(SUBMIT_HEAD, peer.word(SUBMIT_TAIL))
    peer.echo(entry)
    assert victim.answer()[2] == b"the victim's"
    assert rig.stats()["invalid_completions"] == 0


def test_should_count_only_what_was_begun_against_a_request():
    with rigged(retries=1) as rig:
        peer = rig.peers[0]
        begun, waiting = rig.connect().post(b"begun"), rig.connect().post(b"waiting")
        first, second = peer.take(), peer.take()
        peer.mark_begun(first)
        rig.replace(0)
        again = [peer.take(), peer.take()]
        assert [(entry.request_id, entry.attempt, entry.flags) for entry in again] == [
            (first.request_id, 1, 1),  # alone: it may be the one that kills
            (second.request_id, 0, 0),
        ]
        assert peer.body(again[0]) == b"begun"
        peer.mark_begun(again[0])
        rig.replace(0)
        status, fields, _ = begun.answer()
        assert (status, fields["retry-after"]) == (503, "1")
        (last,) = (peer.take(),)
        assert (last.request_id, last.attempt) == (second.request_id, 0)
        peer.echo(last)
        assert waiting.answer()[2] == b"waiting"


def test_should_not_hold_a_mark_of_the_first_worker_against_the_second():
    with rigged(retries=1) as rig:
        peer = rig.peers[0]
        client = rig.connect().post(b"x")
        peer.mark_begun(peer.take())
        for _ in range(3):  # begun once, by the first; its successors die before they begin it
            rig.replace(0)
            entry = peer.take()
            assert entry.attempt == 1
        peer.echo(entry)
        assert client.answer()[2] == b"x"


def test_should_take_a_dead_worker_s_last_answers():
    with rigged() as rig:
        peer = rig.peers[0]
        client = rig.connect().post(b"done").post(b"not done")
        first, _ = peer.take(), peer.take()
        peer.publish(first, body_length=first.body_length, wake=False)
        rig.replace(0)
        assert client.answer()[2] == b"done"
        again = peer.take()
        assert peer.body(again) == b"not done"
        peer.echo(again)
        assert client.answer()[2] == b"not done"


def test_should_free_what_a_dead_worker_held():
    with rigged() as rig:
        peer = rig.peers[0]
        held, needing = rig.connect().post(b"held"), rig.connect().post(b"needing")
        first, second = peer.take(), peer.take()
        peer.publish(first, flags=HELD, body_length=first.body_length)
        assert held.answer()[2] == b"held"
        granted(peer, second, 100_000)
        rig.replace(0)
        again = peer.take()
        assert rig.stats()["slots_leased"] == 1
        grant = granted(peer, again, 200_000)
        peer.write(grant, 0, b"q" * 200_000)
        peer.publish(grant, body_length=200_000)
        assert needing.answer()[2] == b"q" * 200_000


def test_should_answer_requests_of_a_model_that_went_away(rig):
    waiting = rig.connect()
    rig.call(rig.path.worker_down, 0)
    waiting.post(b"waits for a worker")
    wait_until(lambda: rig.stats()["unanswered"] == 1, "not there")
    late = rig.connect().send(b"POST /models/m/invoke HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nab")
    wait_until(lambda: rig.stats()["unanswered"] == 2, "not there")
    rig.call(rig.path.remove_route, "m")
    assert waiting.answer()[0] == 404
    assert late.send(b"cd").answer()[0] == 404
    rig.call(rig.path.worker_up, 0)
    rig.route()


def test_should_serve_waiting_requests_oldest_first_whoever_leaves_meanwhile(rig):
    peer = rig.peers[0]
    rig.call(rig.path.worker_down, 0)
    clients = []
    for index in range(6):
        clients.append(rig.connect().post(b"%d" % index))
        wait_until(lambda: rig.stats()["unanswered"] == len(clients), "not there")
    for gone in (0, 3):
        clients[gone].reset()
        wait_until(lambda left=gone: rig.stats()["abandoned"] == 1 + (left == 3), "not gone")
    rig.call(rig.path.worker_up, 0)
    entries = [peer.take() for _ in range(4)]
    assert [peer.body(entry) for entry in entries] == [b"1", b"2", b"4", b"5"]
    for entry in entries:
        peer.echo(entry)


class Overload:
    """Answers, and how fast: what Retry-After is computed from."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.peer = rig, rig.peers[0]

    def fill(self, count: int) -> list[tuple[Client, Submission]]:
        return [(self.rig.connect().post(b"x"), self.peer.take()) for _ in range(count)]


@pytest.mark.parametrize("total", [False, True])
def test_should_answer_503_with_retry_after_when_a_queue_is_full(total):
    with rigged(queue_total=4 if total else 1000) as rig:
        if not total:
            rig.route(most=4)
        filled = Overload(rig).fill(4)
        client = rig.connect().post(b"one too many")
        status, fields, body = client.answer()
        assert status == 503
        assert 1 <= int(fields["retry-after"]) <= 30
        assert (b"HEADRACE_QUEUE_TOTAL" if total else b"HEADRACE_QUEUE)") in body
        for one, entry in filled:
            rig.peers[0].echo(entry)
            assert one.answer()[0] == 200
        client.post(b"now")
        rig.peers[0].echo(rig.peers[0].take())
        assert client.answer()[0] == 200


def test_should_tell_clients_to_stay_away_longer_when_nothing_moves():
    with rigged() as rig:
        rig.route(most=4)
        overload = Overload(rig)
        (one, entry), *_ = overload.fill(4)
        rig.peers[0].echo(entry)  # a rate is known, and then nothing moves any more
        assert one.answer()[0] == 200
        overload.fill(1)

        def retry_after() -> int:
            return int(rig.connect().post(b"x").answer()[1]["retry-after"])

        wait_until(lambda: retry_after() == 30, "the rate does not fall")
        rig.replace(0)
        for _ in range(4):
            rig.peers[0].echo(rig.peers[0].take())


def test_should_not_be_held_up_by_a_worker_that_never_stops_publishing(scene):
    rig, peer, victim, entry, secret = scene
    for _ in range(RING_ENTRIES):
        peer.publish(secret, op=DONE, generation=77, wake=False)
    rig.ring()
    wait_until(lambda: rig.stats()["invalid_completions"] == RING_ENTRIES, "not taken")
    assert rig.suspects == [0]
    peer.echo(entry)
    assert victim.answer()[2] == b"the victim's"
