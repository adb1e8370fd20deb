"""What a frontend answers when a worker dies, by what it died of, and when no worker has the model."""

import pytest
from rig import rigged


@pytest.mark.parametrize(
    ("deaths", "retries", "status", "word"),
    [
        ([False], 0, 503, b"HEADRACE_RETRIES=0"),
        ([True], 0, 507, b"want of memory"),
        ([True, True], 1, 507, b"so did the one it was given to next"),
        ([True, False], 1, 503, b"so did the one it was given to next"),
    ],
)
def test_should_answer_by_what_the_last_worker_died_of(deaths, retries, status, word):
    with rigged(retries=retries) as rig:
        client = rig.connect().post(b"{}")
        for out_of_memory in deaths:
            rig.peers[0].mark_begun(rig.peers[0].take())
            rig.call(rig.path.worker_down, 0, out_of_memory)
            rig.call(rig.path.worker_up, 0)
        answered, fields, body = client.answer()
        assert answered == status
        assert word in body
        assert ("retry-after" in fields) == (status == 503)
        assert rig.woken == []  # a worker is to have the model, so nobody is to load it


def test_should_tell_once_of_requests_for_a_model_on_no_worker_and_answer_them_when_it_is_refused():
    with rigged() as rig:
        rig.call(rig.path.set_route, "m", 7, [], 10, 20_000, False)
        for turn in range(2):
            clients = [rig.connect().post(b"{}") for _ in range(2)]
            while rig.stats()["slots_leased"] < 2:
                pass
            assert rig.woken == [7] * (turn + 1)
            ((model, used_ns, in_flight),) = rig.call(rig.path.uses)
            assert (model, used_ns > 0, in_flight) == (7, True, 2)
            rig.call(rig.path.refuse, "m", 8, 507, "another model of that name")
            rig.call(rig.path.refuse, "m", 7, 507, "it needs more than there is")
            for client in clients:
                status, _, body = client.answer()
                assert status == 507
                assert b"it needs more than there is" in body
        assert [use[2] for use in rig.call(rig.path.uses)] == [0]  # once more, since it was busy when asked before
        assert rig.call(rig.path.uses) == []
        rig.route()


def test_should_answer_a_request_whose_worker_died_after_its_model_was_unloaded():
    with rigged() as rig:
        client = rig.connect().post(b"{}")
        rig.peers[0].take()
        rig.call(rig.path.remove_route, "m")
        rig.replace(0)
        assert client.answer()[0] == 404
        rig.route()
