"""The app, as INSTALLED_APPS names it."""

from django.apps import AppConfig

from invalidator.app.django import compilers


class InvalidatorConfig(AppConfig):
    """Hooks into the compilers of Django's ORM once all models are known."""

    name = "invalidator.app.django"
    label = "invalidator"
    verbose_name = "Cache invalidation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        compilers.install()
