"""TLS as the settings describe it: the context that connections are made with, and what went wrong, in our words."""

import ssl
from typing import NamedTuple, Protocol

from invalidator.errors import ConfigurationError


class TlsSettings(Protocol):
    """What several sections say about TLS; all are names of PEM files."""

    @property
    def tls_ca(self) -> str | None: ...
    @property
    def tls_certificate(self) -> str | None: ...
    @property
    def tls_key(self) -> str | None: ...


class Trust(NamedTuple):
    """The settings of who trusts this CA, or the system's, and shows no certificate."""

    tls_ca: str | None
    tls_certificate: None = None
    tls_key: None = None


#: What to do about a certificate that OpenSSL refuses, by its X509_V_ERR_… codes.
_REFUSED = {
    9: "its certificate is not valid yet: compare the clocks of both machines",
    10: "its certificate has expired: renew it there",
    62: "its certificate is for another name: correct the address, or see tls_server_name",
    64: "its certificate is for another address: correct the address, or see tls_server_name",
}
_UNTRUSTED = "its certificate is not signed by a CA that is trusted here: see tls_ca"
#: What OpenSSL calls it when the other side wants to know who we are, or does not believe us.
_WHO_ARE_YOU = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_EXPIRED")
#: … and when it does not answer in TLS at all.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


def tls_context(tls: TlsSettings, where: str) -> ssl.SSLContext:
    """What to make connections with: the other side's certificate must be good, and for the name that was asked for.

    `where` is the settings' section, for messages.

    Raises:
        ConfigurationError: a file cannot be read or used; the message names setting and file.
    """
    try:
        context = ssl.create_default_context(cafile=tls.tls_ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f'setting "{where}.tls_ca": cannot read certificates in {tls.tls_ca}: {_cause(error)} (PEM is read)'
        ) from error
    if tls.tls_certificate:
        try:
            # An empty passphrase, so that OpenSSL does not ask a terminal for one.
            context.load_cert_chain(tls.tls_certificate, tls.tls_key, password="")
        except OSError as error:
            raise ConfigurationError(
                f'setting "{where}.tls_certificate": cannot use {tls.tls_certificate} with the key in '
                f"{tls.tls_key or 'the same file'}: {_cause(error)} (PEM is read, and keys without a passphrase)"
            ) from error
    return context


def tls_in_words(error: BaseException | None) -> str | None:
    """What an error on a connection with TLS means, and what to do; None where it is not of TLS."""
    while error is not None and not isinstance(error, ssl.SSLError | ConnectionResetError | EOFError):
        error = error.__cause__
    if error is None:
        return None
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_meaning(error)}"
    # In TLS 1.3 a server looks at our certificate after the handshake; its complaint is often lost with the rest.
    return "TLS: it hung up on us; does it ask for a certificate, or for another? See tls_certificate and tls_key"


def _meaning(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_REFUSED.get(error.verify_code, _UNTRUSTED)} ({error.verify_message.rstrip('.')})"
    reason = error.reason or str(error)
    if reason.endswith(_WHO_ARE_YOU):
        return f"it refuses us: see tls_certificate and tls_key ({reason})"
    if reason.endswith(_NO_TLS):
        return f"it does not speak TLS on this port: correct the port or the settings ({reason})"
    return reason


def _cause(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
