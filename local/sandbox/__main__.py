"""The command line of the simulated sandbox service."""

import argparse

from local.sandbox.layout import Size
from local.sandbox.server import create_app
from local.standin import arguments, serve

SMALLEST: Size = (1024, 720)
LARGEST: Size = (3840, 2160)


def _screen(text: str) -> Size:
    """`1280x720` → (1280, 720)."""
    width, height = (int(part) for part in text.split("x"))
    if not (SMALLEST[0] <= width <= LARGEST[0] and SMALLEST[1] <= height <= LARGEST[1]):
        raise argparse.ArgumentTypeError(f"from {SMALLEST} to {LARGEST}")
    return width, height


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("more than 0")
    return value


def main() -> None:
    parser = arguments("local.sandbox", "A simulated Lybic sandbox service for one machine.")
    parser.add_argument("--sandbox", action="append", default=[], metavar="ID", help="exists from the start")
    parser.add_argument(
        "--screen", type=_screen, default=(1280, 720), metavar="WxH", help="a desktop, 1280x720 by default"
    )
    parser.add_argument(
        "--boot-seconds", type=float, default=0.0, metavar="S", help="a new one is PENDING first"
    )
    parser.add_argument(
        "--time-scale", type=_positive, default=1.0, metavar="X", help="waits take 1/X of their time"
    )
    options = parser.parse_args()
    serve(create_app(options), options.host, options.port)


if __name__ == "__main__":
    main()
