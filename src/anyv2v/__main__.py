"""``python -m anyv2v``."""

from anyv2v.cli import main

main()
