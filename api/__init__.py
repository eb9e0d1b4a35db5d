"""The HTTP service: a thin layer that makes requests durable and tells what became of them.

The public contract calls a job a task; that word lives here and nowhere else.
"""

from pathlib import Path

BUILT = Path(__file__).parent / "static"
"""Where `make playground` puts the page."""
