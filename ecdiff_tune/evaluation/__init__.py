"""From (candidates, prompts) to measurements: references, generations that share, ledger, latency."""
