"""What is measured: one class a system, each run in a process, and if need be an interpreter, of its own."""
