"""`invalidator history` and `invalidator replay`: what the log of events says, and evicting it again."""
