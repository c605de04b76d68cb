"""The live page: reads our topics like any consumer, and shows them to a browser."""
