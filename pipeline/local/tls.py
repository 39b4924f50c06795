"""A certificate authority of one's own, a certificate for localhost, and a service account whose tokens we issue."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path
from typing import Any

_LIFETIME = datetime.timedelta(days=30)


def make_certificates(folder: Path) -> tuple[bytes, bytes]:
    """Writes `ca.pem` and returns private key and certificate chain, in PEM, of a server on localhost.

    What is in `folder` already is used again, so that a restarted server is still trusted.
    """
    key_file, chain_file = folder / "server-key.pem", folder / "server.pem"
    if not (key_file.exists() and chain_file.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        authority, chain, key = _issue()
        (folder / "ca.pem").write_bytes(authority)
        chain_file.write_bytes(chain)
        key_file.touch(mode=0o600)
        key_file.write_bytes(key)
    return key_file.read_bytes(), chain_file.read_bytes()


def write_service_account(path: Path, token_url: str, project: str) -> None:
    """Writes a service account's key file that fetches its tokens from `token_url` (GOOGLE_APPLICATION_CREDENTIALS)."""
    from cryptography.hazmat.primitives import serialization

    pem = _new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    account = {
        "type": "service_account",
        "project_id": project,
        "private_key_id": "stand-in",
        "private_key": pem.decode(),
        "client_email": f"stand-in@{project}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_url,
    }
    path.write_text(json.dumps(account, indent=2), "utf-8")


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _issue() -> tuple[bytes, bytes, bytes]:
    """Certificate of the authority, certificate of the server and the server's key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key: Any, *extensions: tuple[Any, bool]) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("stand-in authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(authority_key, hashes.SHA256())

    usage = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    authority = certificate(
        "stand-in authority",
        authority_key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.KeyUsage(**{**usage, "key_cert_sign": True, "crl_sign": True}), True),
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = certificate(
        "localhost",
        server_key,
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (names, False),
        (x509.KeyUsage(**{**usage, "digital_signature": True}), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    )
    pem = serialization.Encoding.PEM
    key_pem = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem), server.public_bytes(pem), key_pem
