"""Every named bound of MOM, with its unit in its name and its reason beside it."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# One message. 1 MiB is the default of Kafka, NATS and SQS; configurable up to the hard bound.
MESSAGE_BYTES_MAX_DEFAULT: Final = 1 * MIB
MESSAGE_BYTES_MAX_HARD: Final = 8 * MIB
HEADERS_COUNT_MAX: Final = 64
HEADER_NAME_BYTES_MAX: Final = 256
HEADERS_BYTES_MAX: Final = 32 * KIB
KEY_BYTES_MAX: Final = 4 * KIB
CONTENT_TYPE_BYTES_MAX: Final = 256

# One record batch. 256 KiB is where gRPC and the stores reach their full byte rate (measured:
# grpc.aio 400-600 MB/s at 256 KiB a call, SQLite and Redis 216-386 MB/s); larger only adds latency.
BATCH_BYTES_TARGET: Final = 256 * KIB
BATCH_BYTES_MAX: Final = 16 * MIB
BATCH_RECORDS_MAX: Final = 65_536

# One gRPC message: a full batch of the largest kind with its envelope.
GRPC_MESSAGE_BYTES_MAX: Final = 32 * MIB

# One group commit: long enough to amortise an fsync, short enough to keep latency low.
COMMIT_BYTES_MAX: Final = 4 * MIB
COMMIT_BATCHES_MAX: Final = 512
# Waiting to be committed on one partition. Beyond it producers get OVERLOADED.
PARTITION_PENDING_BYTES_MAX: Final = 32 * MIB
# Waiting to be committed on one node, over all its partitions.
NODE_PENDING_BYTES_MAX: Final = 128 * MIB

# Batches a node keeps in memory, shared by all its partitions; readers near the end hit it.
NODE_CACHE_BYTES_MAX_DEFAULT: Final = 64 * MIB

FETCH_BYTES_MAX: Final = 8 * MIB
FETCH_BYTES_DEFAULT: Final = 1 * MIB
# Long polls end by themselves well before a common proxy's 60 s.
WAIT_MS_MAX: Final = 55_000
# Long polls waiting on one node. A waiter is about 2 KiB.
NODE_WAITERS_MAX: Final = 10_000

RECEIVE_MESSAGES_MAX: Final = 10_000
SETTLE_RANGES_MAX: Final = 10_000
# Waiting messages that one call cancels or moves.
RESCHEDULE_MESSAGES_MAX: Final = 1_000
LEASE_MS_DEFAULT: Final = 30_000
LEASE_MS_MIN: Final = 1_000
LEASE_MS_MAX: Final = 12 * 3600 * 1000
# Messages under lease on one partition of one subscription. SQS stops at 120,000.
LEASED_MESSAGES_MAX: Final = 200_000

NAME_LENGTH_MAX: Final = 249
PARTITIONS_MAX: Final = 1_024
TOPICS_MAX: Final = 20_000
SUBSCRIPTIONS_PER_TOPIC_MAX: Final = 256
GROUP_MEMBERS_MAX: Final = 1_000
SESSION_MS_DEFAULT: Final = 10_000
SESSION_MS_MIN: Final = 1_000
SESSION_MS_MAX: Final = 300_000

RETENTION_MS_DEFAULT: Final = 7 * 24 * 3600 * 1000
RETENTION_BYTES_DEFAULT: Final = 1 * GIB

# Producer states a partition remembers, and the batches of each that can be told as duplicates.
# Five is Kafka's window (KIP-98); clients keep at most that many batches in flight.
PRODUCERS_PER_PARTITION_MAX: Final = 10_000
PRODUCER_WINDOW_BATCHES: Final = 5

# After the store lost its tail, the next owner skips this many offsets, so that none is reused.
# More than a partition can take in the seconds that a failover may lose.
OFFSET_GAP: Final = 1 << 24
OFFSET_MAX: Final = (1 << 53) - 1  # exact in a JSON number and in Redis's Lua

# Batches that one step of trimming or dropping removes: a few milliseconds of the store's time.
TRIM_BATCHES_MAX: Final = 256

# Journal bytes after which a new snapshot is written, so that a reload stays short.
JOURNAL_BYTES_MAX: Final = 4 * MIB

# Produces are refused above this share of the store's hard limit; acks, trims and reads go on.
STORE_HIGH_WATER_RATIO: Final = 0.9

HEARTBEAT_INTERVAL_MS: Final = 500
# Heartbeats that stop this long make a node lost: with reassignment, under the promised 4 s.
HEARTBEAT_TIMEOUT_MS: Final = 2_500
# A leader that stops renewing is replaced after this long: under the promised 3 s.
LEADER_LEASE_MS: Final = 2_000
LEADER_RENEW_MS: Final = 600
# Nodes that start together cause one round of placing.
PLACEMENT_DEBOUNCE_MS: Final = 50
# An unchanged routing table is confirmed this often, so that a silent stream means a dead one.
ROUTING_BEAT_MS: Final = 10_000
# How often partitions are looked at. A queue's acknowledged messages take room until then.
RETENTION_SWEEP_MS: Final = 1_000

TOKEN_CACHE_MS: Final = 10_000
TOKENS_MAX: Final = 10_000

# Hashes of short keys that a process remembers: hashing in Python costs about 1 us, a hit 0.1 us.
# With 128-byte keys the cache stays under 4 MiB.
HASH_CACHE_KEYS_MAX: Final = 16_384
HASH_CACHE_KEY_BYTES_MAX: Final = 128

# The year 9999.
TIMESTAMP_MS_MAX: Final = 253_402_300_799_999

# Failed deliveries of a message. SQS's own default for a redrive policy is about as many, and a
# message that failed a thousand times will not do otherwise.
MAX_DELIVERIES_DEFAULT: Final = 5
MAX_DELIVERIES_MAX: Final = 1_000
RETRY_BACKOFF_MS_MAX: Final = 24 * 3600 * 1000
RETRY_BACKOFF_MULTIPLIER_MAX: Final = 100
MESSAGE_TTL_MS_MIN: Final = 100

# The bound that a queue may be given: far beyond what a partition's memory holds.
QUEUE_MESSAGES_MAX_MAX: Final = 1_000_000_000

# Messages that one look into a queue shows.
BROWSE_MESSAGES_MAX: Final = 1_000

# Administration of queues. Entries of a queue's state that one step of a purge takes away: a few
# milliseconds, so that leases of other queues go on.
PURGE_ENTRIES_MAX: Final = 2_000
# One batch of a redrive: a commit or two of its target, and a few at the rate of a slow one.
REDRIVE_BATCH_MESSAGES_MAX: Final = 500
REDRIVE_BATCH_BYTES_MAX: Final = 1 * MIB
# Offsets or ids that a redrive may name; more are better told by a filter.
REDRIVE_PICKS_MAX: Final = 1_000
REDRIVE_RATE_MIN: Final = 0.0001
REDRIVE_RATE_MAX: Final = 1_000_000
# Operations that go on at a time, and ended ones that can still be asked for.
OPERATIONS_OPEN_MAX: Final = 100
OPERATIONS_ENDED_MAX: Final = 200
# How often an operation tells how far it is: each time is a write that every node sees.
OPERATION_TELL_MS: Final = 500
# Ranges of purged or redriven messages that a partition remembers, to tell a late worker why its
# receipt is void. Forgotten ones are told as settled before.
GONE_RANGES_MAX: Final = 1_000

# Changes of a queue's time to live that a partition remembers while messages from before wait.
# Beyond that, the oldest messages follow the next change when the partition changes its owner.
TTL_CHANGES_MAX: Final = 1_000

# What a topic's settings may be. Retention 0 ms: no limit by time.
PARTITIONS_DEFAULT: Final = 1
RETENTION_MS_MIN: Final = 1_000
RETENTION_MS_MAX: Final = 100 * 366 * 24 * 3600 * 1000
# Retention works in whole batches, so a budget below a few of them would mean nothing.
RETENTION_BYTES_MIN: Final = 1 * MIB
RETENTION_BYTES_MAX: Final = 1 << 50
MESSAGE_BYTES_MAX_MIN: Final = 1 * KIB

# One token. Scopes are looked through at each call.
SCOPES_PER_TOKEN_MAX: Final = 64

# The gateway. A JSON body is held whole in memory, so it is bounded, and so are all of them
# together.
GATEWAY_BODY_BYTES_MAX_DEFAULT: Final = 16 * MIB
GATEWAY_BODIES_BYTES_MAX: Final = 256 * MIB
# Requests in hand, long polls included. One is about 20 KiB with its connection.
GATEWAY_REQUESTS_MAX: Final = 20_000
# Records or leased messages in one answer: rendering 10,000 small ones takes about 20 ms.
GATEWAY_RECORDS_MAX: Final = 10_000
# A streamed body is published in chunks, one under way while the next one gathers: the memory of
# one
# stream is twice this. A chunk of several full batches keeps every partition of a topic busy.
STREAM_CHUNK_BYTES: Final = 1 * MIB
STREAM_CHUNK_MESSAGES: Final = 4_000
# Failed lines that the answer to a streamed body names one by one; the rest are counted.
STREAM_ERRORS_SHOWN_MAX: Final = 100
# What Retry-After says when the failing part gave no time of its own.
RETRY_AFTER_MS_DEFAULT: Final = 1_000

# The longest wait that a nack may ask for; later needs a schedule of its own. SQS allows 12 hours.
SETTLE_DELAY_MS_MAX: Final = 7 * 24 * 3600 * 1000

# The dedup window of a topic, and the ids that a node remembers over all its partitions: each takes
# about 170 bytes. Beyond them messages with a dedup_id are refused for a while.
DEDUP_ID_BYTES_MAX: Final = 256
DEDUP_WINDOW_MS_MIN: Final = 1_000
DEDUP_WINDOW_MS_DEFAULT: Final = 5 * 60 * 1000
DEDUP_WINDOW_MS_MAX: Final = 24 * 3600 * 1000
DEDUP_IDS_MAX: Final = 1_000_000
# Ids whose batches were trimmed before the window ended are kept beside the log in values of about
# this size: large enough that there are few, small enough to write anew when some are added.
DEDUP_SEGMENT_BYTES: Final = 16 * KIB

# Bodies kept apart, so that one message that waits long does not hold the log behind it. Below so
# many bytes of log it is not worth a write; and a carried body must free so many times what it
# takes.
CARRY_LOG_BYTES_MIN: Final = 4 * MIB
CARRY_SHARE: Final = 8
# One pass, which reads a batch for each message at worst and ends with a snapshot; and one write of
# it, of the size of a usual commit.
CARRY_MESSAGES_MAX: Final = 2_000
CARRY_BYTES_MAX: Final = 1 * MIB
# Of one partition. A node remembers about 400 bytes for each; beyond it the log waits.
KEPT_BODIES_MAX: Final = 100_000
# Values beside the log that one commit writes or removes, and that one read fetches: each is a
# command or a row of its own, a few milliseconds of the store's time together.
KEPT_VALUES_PER_COMMIT_MAX: Final = 4_000
KEPT_READS_MAX: Final = 256

# Handlers of one worker or subscriber that run at once: each sync one is a thread.
HANDLERS_AT_ONCE_MAX: Final = 1_000
# Tries of a handler at one message before it gives up, and the wait between two of them.
HANDLER_TRIES_MAX: Final = 1_000
HANDLER_BACKOFF_MS_MIN: Final = 10
HANDLER_BACKOFF_MS_MAX: Final = 24 * 3600 * 1000
# What a header of a parked message tells of the handler's error: a traceback's last lines fit.
PARKED_ERROR_CHARACTERS_MAX: Final = 2_000

# A queue's rate limit, messages a second. Below one an hour a pause says it better; above the
# highest no node leases anyway.
RATE_PER_S_MIN: Final = 1 / 3600
RATE_PER_S_MAX: Final = 1_000_000.0
# What a rate limit lets through at once after a quiet time: so much of a second's share, and one
# message at the least. Short, so that whom the limit protects sees no burst.
RATE_BUCKET_MS: Final = 100
# A partition's share of a rate is lent in so many parts.
RATE_PARTS: Final = 8
# How long nodes lend one another a share: what a message may wait for a share to come back. A loan
# is a commit at the lender, and is asked for anew after half of it.
RATE_LOAN_MS: Final = 2_000
# Of a slow rate it is as long as a message takes anyway, up to this.
RATE_LOAN_MS_MAX: Final = 60_000
# So much longer a lender leaves alone what it lent: twice what two nodes' readings of the store's
# clock may differ by.
RATE_LOAN_SKEW_MS: Final = 500

# How long a message waits for the one who was told of it and has yet to come for it, before others
# are told: a few times the way there and back.
PROMISE_MS: Final = 200

# Bytes that the client of a stream of leases lets come ahead of its worker, over all nodes.
STREAM_CREDIT_BYTES: Final = 8 * MIB

# A subscription with messages and workers and without progress is shown as stalled after this, or
# after its lease (the session of its members) where that is longer: a handler may take so long.
STALLED_AFTER_MS: Final = 30_000
# How often a node looks for such.
STALL_LOOK_MS: Final = 1_000
