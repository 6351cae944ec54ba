"""Mutation tests: break the product on purpose, line by line, and see whether a test turns red.

    sources ─> mutants ─┬─> killed by the tests that cover their line
     (mutation.py)      ├─> survived, with a reason in reasons.toml why nobody could see it
                        └─> survived: a guard that no test watches

Neither mutmut 3 nor cosmic-ray fits. mutmut chooses tests by function, skips decorated functions (properties and
context managers), and works on a copy of the sources, where our two packages are not installed. cosmic-ray rewrites
the working tree and starts the whole test command for each mutant.
"""
