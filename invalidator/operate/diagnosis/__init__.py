"""`invalidator check` and `invalidator status`: what is wrong, and the fix."""
