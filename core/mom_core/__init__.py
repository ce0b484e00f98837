"""The pure core: what MOM decides, with no clock, randomness, disk or network of its own.

Everything here is synchronous and deterministic. What it needs from the world comes in as
arguments or through the ports in :mod:`mom_core.ports`, so that a seed replays a failure.
"""
