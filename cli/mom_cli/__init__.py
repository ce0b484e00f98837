"""The command line: `mom`, and `mom dev`, which is all of MOM in one process."""
