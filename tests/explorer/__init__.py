"""A model checker for the reader's protocol: no order of steps may leave a stale value in memcached.

model.py     memcached, as far as readers and worker use it; compared with the real one in the integration tests
tree.py      the next command of a reader after a list of answers: computed once by the real code, then remembered
case.py      the beginning of a run
world.py     READ FIRST: the whole state, and one step of it
herd.py      the world with readers of one process, who share their loads
search.py    every interleaving, states deduplicated
chance.py    random interleavings, by the million
sabotage.py  readers with one guard removed, each of which must be detected
run.py       dev explore
"""
