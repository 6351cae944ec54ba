"""What every test may use; the servers are in integration/conftest.py, for unit tests run with none."""
