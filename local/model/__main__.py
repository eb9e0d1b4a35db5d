"""The command line of the scripted model."""

from local.model.server import create_app
from local.standin import arguments, serve


def main() -> None:
    parser = arguments("local.model", "A scripted model with an OpenAI-compatible endpoint for one machine.")
    options = parser.parse_args()
    serve(create_app(options), options.host, options.port)


if __name__ == "__main__":
    main()
