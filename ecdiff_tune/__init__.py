"""The tuner: finds (p, k, alpha, s) of EC-Diff for a pair, a machine and a link."""
