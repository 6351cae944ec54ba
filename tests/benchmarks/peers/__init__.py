"""The libraries that people use instead, each as its own documentation advises, and tuned.

Rules of this package:

1. It runs in an environment of its own (requirements.txt), which `dev bench` makes, and imports nothing of ours.
2. A peer makes the same promise as we do, as far as its library can: it acknowledges an event after memcached has
   answered the delete of its key on its owner. Without awaiting answers it would be faster, and promise nothing.
3. Everything that makes a library faster is switched on. Everything that it does beside the work is switched off.
"""
