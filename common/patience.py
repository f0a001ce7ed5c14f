"""How soon Flower looks again for bytes that have been announced and are not there yet.

Flower 1.41 waits one second, then two, four, eight and ten, at each of the three places that a
message passes; of a round with a small model that is most of the time. Where a later Flower has
other functions, nothing is changed: it is slower then, and right.
"""

FIRST, LONGEST = "initial_backoff", "backoff_cap"
TRIES = "max_tries_per_object"


def look_again_after(first_seconds: float, longest_seconds: float) -> bool:
    """Change the waits of this process; return whether that could be done.

    How long it looks in all stays as Flower has it, two hours; only the number of looks, which
    then would come first, is not counted any more.

    Args:
        first_seconds: Before the second look; doubled with each.
        longest_seconds: Between two looks.
    """
    try:
        from flwr.supercore.inflatable import inflatable_utils
    except ImportError:
        return False
    names = ("pull_objects", "pull_and_inflate_object_from_tree")
    found = [getattr(getattr(inflatable_utils, n, None), "__kwdefaults__", None) for n in names]
    changed = {FIRST: first_seconds, LONGEST: longest_seconds, TRIES: None}
    if not all(defaults is not None and set(changed) <= set(defaults) for defaults in found):
        return False
    for defaults in found:
        defaults.update(changed)  # type: ignore[union-attr] # looked at above
    return True
