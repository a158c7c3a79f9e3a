"""The algorithms: params, plan, estimators, sampler, schedulers, batches, states. Knows no model family."""
