"""The table of `invalidator.app.publish.outbox.Outbox`, as Django's migrations make it."""

from django.db import models


class OutboxEvent(models.Model):
    """An event that was committed and waits for `invalidator relay`."""

    id = models.BigAutoField(primary_key=True)
    entity = models.TextField()
    type = models.TextField()
    body = models.BinaryField()
    message_id = models.CharField(max_length=32)
    time = models.DateTimeField()
    app_id = models.TextField()

    class Meta:
        app_label = "invalidator"
        db_table = "invalidator_outbox"
