"""How a search goes from one candidate to the next.

A strategy takes a :class:`~deploy.search.search.Search`, trains candidates until there are
enough, tells of each, and returns them. It need not sample: one that learns the choice itself
is a function of the same form, and a line in the table.
"""

from collections.abc import Callable, Mapping
from functools import partial

from common.catalogue import unknown
from common.errors import InputError
from deploy.search.learnt import learnt
from deploy.search.plan import claim
from deploy.search.sampled import sampled
from deploy.search.search import Search
from deploy.search.trial import Trial
from server.journal import owning

Strategy = Callable[[Search], list[Trial]]
STRATEGIES: Mapping[str, Strategy] = {
    **{name: partial(sampled, sampler=name) for name in ("random", "tpe", "nsga2")},
    "dints": learnt,
}


def run_search(search: Search) -> list[Trial]:
    """Take a search from where it stands to its end; return all its trials.

    Raises:
        InputError: If its folder is another search's.
        RunInUseError: If another process works there.
    """
    name = search.plan.strategy
    if name not in STRATEGIES:
        raise InputError(f"strategy {name!r} {unknown(name, STRATEGIES)}")
    with owning(search.folder):
        claim(search.folder, search.plan)
        return STRATEGIES[name](search)
