import itertools
import logging
import threading

from client.status import IDLE, TRAINING, Status, StatusBoard
from common.events import SITE, emit


def test_a_board_begins_idle():
    assert StatusBoard().now() == Status(phase=IDLE)


def test_a_board_follows_the_events_of_the_work():
    board = StatusBoard()
    SITE.addHandler(board)
    before = SITE.level
    SITE.setLevel(logging.INFO)
    try:
        found = []
        for event, fields in (
            ("reading", {"done": 2, "of": 9}),
            ("step", {"step": 3, "steps": 50}),
            ("case_scored", {"done": 1, "of": 4}),
            ("round_trained", {"round": 1}),
        ):
            emit(SITE, event, **fields)
            now = board.now()
            found.append((now.phase, now.done, now.total))
    finally:
        SITE.removeHandler(board)
        SITE.setLevel(before)

    assert found == [
        ("preparing", 2, 9),
        ("training", 3, 50),
        ("validating", 1, 4),
        ("validating", 1, 4),
    ]


def test_bytes_are_counted_within_a_run():
    board = StatusBoard()
    board.job(run="a", study="1", number=1)
    board.count(bytes_in=5)
    board.count(bytes_in=5, bytes_out=3)
    board.job(run="a", study="1", number=2)
    same_run = board.now()
    board.job(run="b", study="1", number=1)

    assert (same_run.bytes_in, same_run.bytes_out, same_run.round) == (10, 3, 2)
    assert (board.now().bytes_in, board.now().bytes_out) == (0, 0)


def test_counting_keeps_the_phase():
    board = StatusBoard()
    board.show(TRAINING, done=2, total=5)
    board.count(bytes_out=1)

    assert (board.now().phase, board.now().done, board.now().total) == (TRAINING, 2, 5)


def test_counts_of_many_threads_add_up():
    board = StatusBoard()
    threads = [
        threading.Thread(target=lambda: [board.count(bytes_in=1) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert board.now().bytes_in == 2000


def test_a_watcher_sees_the_newest_and_never_waits_for_ever():
    board = StatusBoard()
    changes = board.changes(0.01)

    first = next(changes)
    board.show(TRAINING, done=1, total=2)
    board.show(TRAINING, done=2, total=2)
    second, third = itertools.islice(changes, 2)

    assert first.phase == IDLE
    assert second.done == 2
    assert third == second
