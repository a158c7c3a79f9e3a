"""How others place a model's calls or share them between two models, a page each."""
