"""`python -m twin`."""

from config.endings import settle_endings

settle_endings()

from twin.cli import main  # noqa: E402 - what comes before is for the imports, too

main()
