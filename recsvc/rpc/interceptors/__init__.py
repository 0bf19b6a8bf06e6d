"""The stages that surround every call, one module each."""
