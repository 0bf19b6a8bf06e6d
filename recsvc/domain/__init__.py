"""What things are and the mathematics of ranking: pure Python, no I/O, no grpc, no SQL."""
