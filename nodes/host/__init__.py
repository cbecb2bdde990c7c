"""The only code that touches the host's internals."""
