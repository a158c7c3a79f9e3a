"""Cloud and edge on two machines: packets, the engine that batches requests, server and client."""
