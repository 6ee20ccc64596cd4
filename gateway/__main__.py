"""`python -m gateway`: serve the gateway, as its image does."""

import argparse

from gateway.main import add_options, checked, serve


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description="One door for many clients, before containers."
    )
    add_options(parser)
    options = parser.parse_args()
    settings = checked(parser, options)
    if not (settings.containers or settings.containers_file):
        parser.error("no container is named; use --container, --containers-file or GATEWAY_CONTAINERS")
    serve(settings, options)


if __name__ == "__main__":
    main()
