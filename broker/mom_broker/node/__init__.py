"""A MOM node: owns partitions, appends to them, serves them, and leases their messages.

One asyncio loop runs a node, so state needs no locks: what is not awaited in between is atomic. The
noun of each file: :mod:`partition` (one owned log and its group commit), :mod:`cache` (recent
batches), :mod:`queue` and :mod:`group` (the two subscription modes over a partition),
:mod:`ownership` (which partitions this node has), :mod:`routing` (the table clients see),
:mod:`service` (the gRPC face), :mod:`forwarding` (the one hop to the owner), :mod:`retention`,
:mod:`registration` (the stream to the master), :mod:`app` (wiring).
"""
