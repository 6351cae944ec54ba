"""The libraries that people use instead, each as its own documentation advises, and tuned.

Rules of this package:

1. It runs in an environment of its own (requirements.txt), which `dev bench` makes, and imports nothing of ours.
2. The same promise as ours, as far as the library can make it: an event is acknowledged after memcached has answered
   the delete of its key on its owner. No answer awaited would be faster, and would promise nothing.
3. What makes a library faster is switched on, what it does beside the work is switched off.
"""
