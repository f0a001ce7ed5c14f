"""The console that tables go to."""

from rich.console import Console

WIDE = 160


def wide_console() -> Console:
    """Return a console that does not fold tables where nobody's terminal limits them."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)
