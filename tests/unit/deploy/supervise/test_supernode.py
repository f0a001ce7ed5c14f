"""What is changed of Flower's SuperNode, on its own loop's functions with a state of ours."""

from types import SimpleNamespace

import flwr.supernode.start_client_internal as internal
import pytest

from deploy.supervise import supernode


@pytest.fixture(autouse=True)
def flower_as_it_was(monkeypatch):
    for name in ("_pull_and_store_message", "_push_messages", "time"):
        monkeypatch.setattr(internal, name, getattr(internal, name))


def message(name, reply_to=""):
    return SimpleNamespace(
        metadata=SimpleNamespace(
            message_id=name, reply_to_message_id=reply_to, run_id=1, group_id="",
            message_type="train",
        )
    )  # fmt: skip


class State:
    """Replies of messengers, one batch at each look."""

    def __init__(self, *batches):
        self.batches, self.looks = list(batches), 0

    def get_messages_legacy(self, *, is_reply):
        assert is_reply
        self.looks += 1
        return self.batches.pop(0) if self.batches else []

    def get_message_processing_duration(self, message_id):
        return 0.1

    def delete_messages(self, message_ids):
        pass


class Store:
    def get_object_tree(self, message_id):
        return SimpleNamespace(object_id=message_id, children=[])

    def delete(self, message_id):
        pass


def test_an_old_runs_reply_does_not_stand_for_the_new_questions(monkeypatch):
    pulled = iter([message("new question")])
    monkeypatch.setattr(internal, "_pull_and_store_message", lambda receive: receive() and 7)
    supernode._answer_each_question()
    state = State([message("old reply", "old question")], [message("reply", "new question")])
    sent = []

    def send(one, _tree, _seconds):
        sent.append(one.metadata.message_id)
        return set(), "session"

    assert internal._pull_and_store_message(receive=lambda: (next(pulled), None)) == 7
    internal._push_messages(
        state=state, object_store=Store(), send=send, push_object=lambda *_: None
    )

    assert sent == ["old reply", "reply"]
    assert state.batches == []


def test_a_flower_of_other_arguments_is_refused(monkeypatch):
    monkeypatch.setattr(internal, "_push_messages", lambda state, object_store: None)
    with pytest.raises(AttributeError, match="_push_messages"):
        supernode._answer_each_question()


def test_flowers_own_functions_are_those_that_it_was_checked_against():
    supernode._ask_sooner()
    supernode._answer_each_question()
