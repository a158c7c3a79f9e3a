"""What tuning won and what it cost, beside what else could have been done: the paper's tables."""
