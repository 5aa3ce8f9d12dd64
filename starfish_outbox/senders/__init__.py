"""How one entry reaches a server: each sender is called with an entry and raises what `drain_outbox` understands.

`http_post` posts to a fixed URL and needs the extra ``http``; importing this package needs nothing.
"""

from starfish_outbox.senders.http import HttpSender, http_post, idempotency_key

__all__ = ["HttpSender", "http_post", "idempotency_key"]
