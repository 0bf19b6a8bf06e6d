"""Thin servicers: convert in, ask storage or the engine, convert out."""
