"""The site's ClientApp: a messenger. Unpack, hand the job to the worker, pack; no torch.

An error leaves the site as a code and a fixed sentence; the full story stays in the site's log.
"""

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.failures import failure_of
from client.link import Worker, worker_of
from common import protocol
from common.events import SITE
from common.messages import AloneJob, EvaluateJob, ShareJob, TrainJob
from common.messages import Context as JobContext

app = ClientApp()


@app.query("enrol")
def enrol(message: Message, context: Context) -> Message:
    """Answer who the site is and what it has."""
    return _answer(message, context, JobContext, lambda worker, job: worker.enrol(job))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round."""
    return _answer(message, context, TrainJob, lambda worker, job: worker.train(job))


@app.train("alone")
def train_alone(message: Message, context: Context) -> Message:
    """Train the model that the site would have had alone."""
    return _answer(message, context, AloneJob, lambda worker, job: worker.train_alone(job))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score weights on the site's held-out cases."""
    return _answer(message, context, EvaluateJob, lambda worker, job: worker.evaluate(job))


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """Hand out the model that the site trained alone, if its people permit that."""
    return _answer(message, context, ShareJob, lambda worker, job: worker.share(job))


def _answer(
    message: Message, context: Context, kind: type[Any], work: Callable[[Worker, Any], Any]
) -> Message:
    try:
        job = protocol.unpack(kind, message.content)
        answer = protocol.pack(work(worker_of(context.node_config, context.run_config), job))
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may leave the site
        SITE.error("job_failed", exc_info=error)
        answer = protocol.pack_failure(failure_of(error))
    return Message(answer, reply_to=message)
