"""TLS as the settings describe it: the context for connections, and readable descriptions of TLS errors."""

import ssl
from typing import NamedTuple, Protocol

from invalidator.errors import ConfigurationError


class TlsSettings(Protocol):
    """The TLS settings that several sections share. All are names of PEM files."""

    @property
    def tls_ca(self) -> str | None: ...
    @property
    def tls_certificate(self) -> str | None: ...
    @property
    def tls_key(self) -> str | None: ...


class Trust(NamedTuple):
    """TLS settings for verifying the server only, without a client certificate."""

    tls_ca: str | None
    tls_certificate: None = None
    tls_key: None = None


#: What is wrong with a certificate and how to fix it, by OpenSSL's X509_V_ERR_… codes.
_REFUSED = {
    9: "its certificate is not valid yet: compare the clocks of both machines",
    10: "its certificate has expired: renew it on that machine",
    62: "its certificate is for another name: correct the address, or see tls_server_name",
    64: "its certificate is for another address: correct the address, or see tls_server_name",
}
_UNTRUSTED = "its certificate is not signed by a CA that is trusted here: see tls_ca"
#: Ends of OpenSSL's reasons if the other side requires a client certificate, or refuses ours.
_CLIENT_REFUSED = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_EXPIRED")
#: The same if the other side does not answer in TLS at all.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


def tls_context(tls: TlsSettings, where: str) -> ssl.SSLContext:
    """Return a context for connections that verifies the other side's certificate and host name.

    `where` is the settings' section, for error messages.

    Raises:
        ConfigurationError: a file cannot be read or used; the message names the setting and the file.
    """
    try:
        context = ssl.create_default_context(cafile=tls.tls_ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f'setting "{where}.tls_ca": cannot read certificates in {tls.tls_ca}: {_cause(error)} (PEM is expected)'
        ) from error
    if tls.tls_certificate:
        try:
            # An empty passphrase, so that OpenSSL does not ask a terminal for one.
            context.load_cert_chain(tls.tls_certificate, tls.tls_key, password="")
        except OSError as error:
            raise ConfigurationError(
                f'setting "{where}.tls_certificate": cannot use {tls.tls_certificate} with the key in '
                f"{tls.tls_key or 'the same file'}: {_cause(error)} (PEM is expected, and a key without a passphrase)"
            ) from error
    return context


def tls_in_words(error: BaseException | None) -> str | None:
    """Describe a TLS error on a connection and its fix, or return None if the error is not about TLS."""
    while error is not None and not isinstance(error, ssl.SSLError | ConnectionResetError | EOFError):
        error = error.__cause__
    if error is None:
        return None
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_meaning(error)}"
    # In TLS 1.3 a server checks our certificate after the handshake, and its alert is often lost with the connection.
    return "TLS: it closed the connection, perhaps for want of a client certificate: see tls_certificate and tls_key"


def _meaning(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_REFUSED.get(error.verify_code, _UNTRUSTED)} ({error.verify_message.rstrip('.')})"
    reason = error.reason or str(error)
    if reason.endswith(_CLIENT_REFUSED):
        return f"it refuses our certificate: see tls_certificate and tls_key ({reason})"
    if reason.endswith(_NO_TLS):
        return f"it does not speak TLS on this port: correct the port or the settings ({reason})"
    return reason


def _cause(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
