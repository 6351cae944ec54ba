"""Makes the table of the outbox."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The first migration."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("entity", models.TextField()),
                ("type", models.TextField()),
                ("body", models.BinaryField()),
                ("message_id", models.CharField(max_length=32)),
                ("time", models.DateTimeField()),
                ("app_id", models.TextField()),
            ],
            options={"db_table": "invalidator_outbox"},
        ),
    ]
