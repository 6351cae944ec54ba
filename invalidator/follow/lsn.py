"""Positions in PostgreSQL's log (LSNs), as the server writes them: ``16/B374D848``."""


def to_text(lsn: int) -> str:
    """Return an LSN as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def from_text(text: str) -> int:
    """Return the number of an LSN that PostgreSQL printed; raises ValueError for anything else."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
