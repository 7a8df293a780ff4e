"""TLS of a server: its certificate, and whose client certificates it asks for.

Owns reading the files, again when they change, so that a renewed certificate needs no restart; and
how a probe on the same machine trusts the server. Does not know who a client certificate stands for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from lorry.errors import InvalidInput

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files. client_ca: those who sign client certificates; without one, no caller is asked for any."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is bound with. Raises OSError where a file cannot be read, InvalidInput where it is not PEM."""
        files = _Files(self)
        return grpc.dynamic_ssl_server_credentials(
            files.configuration(),
            files.changed,  # type: ignore[arg-type]  # the stubs do not know that None means unchanged
            require_client_authentication=self.client_ca is not None,
        )

    def probe(self) -> tuple[grpc.ChannelCredentials, str]:
        """Credentials for asking this very server, and the name that its certificate is for.

        The server's certificate is also what the probe shows where one is asked for.
        """
        certificate = self.certificate.read_bytes()
        own = (self.key.read_bytes(), certificate) if self.client_ca else (None, None)
        return grpc.ssl_channel_credentials(certificate, *own), _name_in(certificate)


class _Files:
    """The files' bytes as they were read last; gRPC asks at each handshake whether they changed."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._stamp = self._stamps()
        self._bytes = self._read()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, roots = self._bytes
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=roots)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration; None where nothing changed, or what is there now cannot be used."""
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return None
            self._stamp, self._bytes = stamp, self._read()
        except (OSError, InvalidInput) as error:
            _log.warning("the certificate files changed and cannot be used, the old ones stay: %s", error)
            return None
        _log.info("the certificate files changed and were read again")
        return self.configuration()

    def _paths(self) -> list[Path]:
        return [path for path in (self._tls.key, self._tls.certificate, self._tls.client_ca) if path is not None]

    def _stamps(self) -> list[tuple[int, int]]:
        return [((facts := path.stat()).st_mtime_ns, facts.st_size) for path in self._paths()]

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        key, certificate, *roots = [path.read_bytes() for path in self._paths()]
        _check_pair(certificate, key)
        return key, certificate, roots[0] if roots else None


def _check_pair(certificate: bytes, key: bytes) -> None:
    # gRPC would begin to listen with files that do not fit each other, and refuse every handshake.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    try:
        ours = load_pem_private_key(key, None).public_key()
        fits = load_pem_x509_certificate(certificate).public_key() == ours
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput("TLS: expected a certificate and a key without passphrase in PEM, got others") from error
    if not fits:
        raise InvalidInput("TLS: expected the key of the certificate, got another key")


def _name_in(certificate: bytes) -> str:
    from cryptography import x509

    subject = x509.load_pem_x509_certificate(certificate)
    try:
        names = subject.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return next(iter([*hosts, *addresses]), "").replace("*", "health")
