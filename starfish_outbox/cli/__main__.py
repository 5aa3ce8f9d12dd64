"""``python -m starfish_outbox.cli``: the same as ``starfish-outbox``."""

from __future__ import annotations

from starfish_outbox.cli import main

main()
