"""Makes the models that the cache ships: the int8 embedder and the verifier."""
