"""A Django app with a few models, for ``test_django.py``."""
