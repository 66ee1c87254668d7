"""Generated gRPC code of package ringfence.v1; `make wire` rewrites it."""
