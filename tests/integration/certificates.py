"""Certificates for private servers: a CA of the test's own, and what it issues, as files."""

from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """A CA that nobody else knows; its certificate is `ca.pem` in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(
        self, name: str, *hosts: str, not_before: datetime | None = None, not_after: datetime | None = None
    ) -> tuple[str, str]:
        """Write `<name>.pem` and `<name>-key.pem` for these hosts, over those that were there; returns their paths."""
        issued = self._ca.issue_cert(*hosts, not_before=not_before, not_after=not_after)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return str(certificate), str(key)
