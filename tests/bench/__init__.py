"""What each operation costs, on real files: ``python -m tests.bench``."""
