"""The whole federation on one machine; the only package that may import both sides."""
