"""The door: a grpc.aio server, what happens to every call, and thin servicers that convert in, ask, convert out."""
