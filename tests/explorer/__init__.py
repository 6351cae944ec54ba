"""Readers, writers, a worker and memcached, step by step, in every order: does a stale value ever stay?

model.py     memcached, as far as readers and worker use it; compared with the real one in the integration tests
tree.py      what a reader does next, given all it was answered: worked out once by the real code, then looked up
world.py     READ FIRST: everything there is, and one step of it
search.py    every interleaving, states deduplicated
chance.py    random interleavings, by the million
sabotage.py  readers with one guard removed: each has to be found out
run.py       dev explore
"""
