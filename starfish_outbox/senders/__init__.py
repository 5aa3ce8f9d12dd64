"""How one entry reaches a server: each sender is called with an entry and raises what `drain_outbox` understands.

`http_post` posts to a fixed URL and needs the extra ``http``, `sql_insert` inserts rows by a database driver, `s3_put`
puts objects with a client of boto3, `starfish_push` and `starfish_append` take the client of Starfish's SDK; importing
this package needs nothing.
"""

from starfish_outbox.senders.http import HttpSender, http_post, idempotency_key
from starfish_outbox.senders.s3 import S3Sender, s3_put
from starfish_outbox.senders.sql import SqlSender, sql_insert
from starfish_outbox.senders.starfish import StarfishAppend, StarfishPush, starfish_append, starfish_push, union_by_id

__all__ = [
    "HttpSender",
    "S3Sender",
    "SqlSender",
    "StarfishAppend",
    "StarfishPush",
    "http_post",
    "idempotency_key",
    "s3_put",
    "sql_insert",
    "starfish_append",
    "starfish_push",
    "union_by_id",
]
