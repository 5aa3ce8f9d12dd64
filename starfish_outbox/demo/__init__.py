"""A real field survey, collected offline, killed in the middle and delivered whole: ``python -m starfish_outbox.demo``.

The story is told by one process and lived by three others, each a file that can be read on its own:

- ``survey``: a CSV as observations, and the server's records held against it, cell by cell;
- ``collect``: the process that collects, and is killed;
- ``server``: the HTTP server that loses acknowledgements, and is killed;
- ``processes``: how those are started, watched and ended;
- ``story``: what happens, in which order; ``report``: what is shown of it.
"""
