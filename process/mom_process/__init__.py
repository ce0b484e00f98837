"""What every process of MOM has: clocks, addresses and ports, log lines, flags, an orderly end."""
