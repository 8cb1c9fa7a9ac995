"""Over TLS, too, a dripping or silent server cannot outlast the deadline."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from config.catalogue import Catalogue, ProviderConfig
from tasks.inference import GenerationParams
from tests.fakes.provider import FakeProvider
from workers.providers import errors as e
from workers.providers.base import CallLimits
from workers.providers.provider import HttpProvider
from workers.providers.registry import build_providers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[FakeProvider]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FakeProvider(tls=context) as fake:
        yield fake


def adapter(catalogue: Catalogue, url: str) -> HttpProvider:
    return build_providers(catalogue, {"openai": ProviderConfig("k", url)})["openai"]


def ask(provider: HttpProvider, seconds: float, **more: object) -> str:
    return provider.generate(
        "one two",
        "m",
        params=GenerationParams(),
        limits=CallLimits(time.monotonic() + seconds),
        **more,  # type: ignore[arg-type]
    ).text


@pytest.fixture
def provider(catalogue: Catalogue, secure: FakeProvider, certificate: Path) -> HttpProvider:
    built = adapter(catalogue, secure.url)
    built._transport._session.verify = str(certificate)
    return built


def test_an_answer_over_tls(provider: HttpProvider) -> None:
    assert ask(provider, 10) == "one two"
    assert ask(provider, 10, on_delta=lambda _: None) == "one two"


@pytest.mark.parametrize("mode", ["hang", "drip_headers", "drip_body"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_holds_over_tls(
    provider: HttpProvider, secure: FakeProvider, mode: str, stream: bool
) -> None:
    secure.behave(mode=mode, interval=0.03, text="word " * 200)
    with pytest.raises(e.ProviderTimeout, match="deadline"):
        ask(provider, 0.5, **({"on_delta": lambda _: None} if stream else {}))


def test_an_unknown_certificate_is_refused(catalogue: Catalogue, secure: FakeProvider) -> None:
    with pytest.raises(e.ProviderUnreachable):
        ask(adapter(catalogue, secure.url), 10)
    assert secure.count == 0
