"""Videos and scores in the formats of VBench."""
