"""The bytes of AMQP that this package reads and writes itself: frames, content headers, properties."""
