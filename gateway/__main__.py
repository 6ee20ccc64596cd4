"""`python -m gateway`: serve the gateway, as its image does."""

import argparse

from gateway.main import add_options, run


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description="One door for many clients, before containers."
    )
    add_options(parser)
    run(parser, parser.parse_args())


if __name__ == "__main__":
    main()
