# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: certificates, sessions, secrets, reports and migration of plain SEV.

The owner's side is written here from the specification and shares no code with the firmware's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from harness.emulator.memory import PAGE_SIZE
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from tests.psp_sev_host import ES, SevHost, sev_host

CERT, SESSION, HEADER, REPORT = 0x824, 0x80, 52, 208
BODY = 0x414
OCA, PEK, PDH, CEK, UNUSED = 0x1001, 0x1002, 0x1003, 0x1004, 0x1000
NOSEND, DOMAIN, SEV_ONLY = 1 << 3, 1 << 4, 1 << 5
SUPDATE, RUPDATE, SENT, RUNNING = 4, 5, 6, 3


@pytest.fixture(params=[False, True], ids=["sev", "snp"])
def host(request: pytest.FixtureRequest) -> Iterator[SevHost]:
    with sev_host(snp=request.param, seed=1) as made:
        yield made


# -- the owner's side ----------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A certificate as bytes: body, then two signatures of usage, algorithm, r, s."""

    raw: bytes

    def word(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + 4], "little")

    @property
    def usage(self) -> int:
        return self.word(8)

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        assert self.word(16) == 2  # P-384
        x, y = (int.from_bytes(self.raw[at : at + 72], "little") for at in (20, 92))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()

    @property
    def signers(self) -> list[int]:
        return [self.word(at) for at in (BODY, BODY + 0x208)]

    def signed_by(self, issuer: Certificate) -> bool:
        at = BODY + 0x208 * self.signers.index(issuer.usage) + 8
        r, s = (int.from_bytes(self.raw[at + n : at + n + 72], "little") for n in (0, 72))
        algorithm = ec.ECDSA(hashes.SHA256())
        try:
            issuer.key.verify(utils.encode_dss_signature(r, s), self.raw[:BODY], algorithm)
        except InvalidSignature:
            return False
        return True


def certificate(usage: int, key: ec.EllipticCurvePublicKey, algorithm: int = 2) -> bytes:
    numbers = key.public_numbers()
    head = b"".join(n.to_bytes(4, "little") for n in (1, 0x3701, usage, algorithm, 2))
    point = numbers.x.to_bytes(72, "little") + numbers.y.to_bytes(72, "little")
    empty = UNUSED.to_bytes(4, "little") + bytes(0x204)
    return (head + point).ljust(BODY, b"\0") + empty + empty


def signed(raw: bytes, usage: int, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate with its first signature."""
    r, s = utils.decode_dss_signature(key.sign(raw[:BODY], ec.ECDSA(hashes.SHA256())))
    signature = usage.to_bytes(4, "little") + (2).to_bytes(4, "little")
    signature += r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return raw[:BODY] + signature.ljust(0x208, b"\0") + raw[BODY + 0x208 :]


def kdf(key: bytes, label: bytes, context: bytes = b"") -> bytes:
    message = b"\1\0\0\0" + label + b"\0" + context + b"\x80\0\0\0"
    return hmac.new(key, message, hashlib.sha256).digest()[:16]


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def aes(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


class Owner:
    """A guest's owner: a Diffie-Hellman key, and the transport keys it chose."""

    tek, tik = b"transport encryp", b"transport integr"
    nonce, iv = b"session's nonce.", b"session's vector"

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.cert = certificate(PDH, self.key.public_key(), 3)

    def session(self, pdh: Certificate, policy: int) -> bytes:
        master = kdf(self.key.exchange(ec.ECDH(), pdh.key), b"sev-master-secret", self.nonce)
        wrapped = aes(kdf(master, b"sev-kek"), self.iv, self.tek + self.tik)
        wrap_mac = mac(kdf(master, b"sev-kik"), wrapped)
        policy_mac = mac(self.tik, policy.to_bytes(4, "little"))
        return self.nonce + wrapped + self.iv + wrap_mac + policy_mac

    def packet(self, secret: bytes, measurement: bytes, flags: int = 0) -> tuple[bytes, bytes]:
        body, length = aes(self.tek, self.iv, secret), len(secret).to_bytes(4, "little")
        head = flags.to_bytes(4, "little") + self.iv
        return head + mac(self.tik, b"\1", head, length, length, body, measurement), body


def export(host: SevHost) -> list[Certificate]:
    """PDH, PEK, OCA and CEK."""
    cert, chain = host.blank(), host.blank(2)
    data = sev.sev_data_pdh_cert_export(
        pdh_cert_address=cert, pdh_cert_len=CERT, cert_chain_address=chain, cert_chain_len=3 * CERT
    )
    error, data = host.ask(sev.SEV_CMD_PDH_CERT_EXPORT, data)
    assert (error, data.pdh_cert_len, data.cert_chain_len) == (0, CERT, 3 * CERT)
    raw = host.memory.read(cert, CERT), host.memory.read(chain, 3 * CERT)
    return [Certificate(raw[0]), *(Certificate(raw[1][n * CERT :][:CERT]) for n in range(3))]


def start(host: SevHost, owner: Owner, policy: int = 0, session: bytes | None = None) -> SevFwError:
    data = sev.sev_data_launch_start(
        policy=policy,
        dh_cert_address=host.put(owner.cert),
        dh_cert_len=CERT,
        session_address=host.put(session or owner.session(export(host)[0], policy)),
        session_len=SESSION,
    )
    return host.error(sev.SEV_CMD_LAUNCH_START, data)


# -- certificates --------------------------------------------------------------------------


def test_chain_of_certificates(host: SevHost) -> None:
    pdh, pek, oca, cek = export(host)
    assert [cert.usage for cert in (pdh, pek, oca, cek)] == [PDH, PEK, OCA, CEK]
    assert pdh.signed_by(pek)
    assert pek.signed_by(oca)
    assert pek.signed_by(cek)
    assert oca.signed_by(oca)
    assert cek.signers == [UNUSED, UNUSED]
    assert pdh.raw[4:6] == b"\x01\x37"


@pytest.mark.parametrize("lengths", [(0, 0), (CERT, 3 * CERT - 1), (CERT - 1, 3 * CERT)])
def test_short_buffers_are_told_the_lengths(host: SevHost, lengths: tuple[int, int]) -> None:
    data = sev.sev_data_pdh_cert_export(pdh_cert_len=lengths[0], cert_chain_len=lengths[1])
    error, data = host.ask(sev.SEV_CMD_PDH_CERT_EXPORT, data)
    assert error == SevFwError.INVALID_LEN
    assert (data.pdh_cert_len, data.cert_chain_len) == (CERT, 3 * CERT)
    error, csr = host.ask(sev.SEV_CMD_PEK_CSR, sev.sev_data_pek_csr())
    assert (error, csr.len) == (SevFwError.INVALID_LEN, CERT)


def test_new_keys(host: SevHost) -> None:
    """PDH_GEN renews the PDH only, PEK_GEN and FACTORY_RESET all but the chip's key."""
    before = export(host)
    host.must(sev.SEV_CMD_PDH_GEN)
    after = export(host)
    assert [old != new for old, new in zip(before, after, strict=True)] == [True] + 3 * [False]
    host.must(sev.SEV_CMD_PEK_GEN)
    last = export(host)
    assert [old != new for old, new in zip(after, last, strict=True)] == 3 * [True] + [False]
    assert last[0].signed_by(last[1])


def test_identity_survives_shutdown_but_not_a_factory_reset() -> None:
    with sev_host(es=False) as host:
        before = export(host)
        for reset in (False, True):
            host.must(sev.SEV_CMD_SHUTDOWN)
            if reset:
                host.must(sev.SEV_CMD_FACTORY_RESET)
            host.must(sev.SEV_CMD_INIT, sev.sev_data_init())
            assert (export(host)[:3] == before[:3]) != reset


def test_states_of_the_platform(host: SevHost) -> None:
    host.launch()
    refused = SevFwError.INVALID_PLATFORM_STATE
    assert host.issue(sev.SEV_CMD_PEK_GEN) == refused
    data = sev.sev_data_pek_cert_import()
    assert host.error(sev.SEV_CMD_PEK_CERT_IMPORT, data) == refused
    assert host.issue(sev.SEV_CMD_PDH_GEN) == SevFwError.SUCCESS
    host.must(sev.SEV_CMD_SHUTDOWN)
    assert host.issue(sev.SEV_CMD_PDH_GEN) == refused
    assert host.error(sev.SEV_CMD_PEK_CSR, sev.sev_data_pek_csr()) == refused
    assert host.error(sev.SEV_CMD_PDH_CERT_EXPORT, sev.sev_data_pdh_cert_export()) == refused


def request(host: SevHost) -> bytes:
    """PEK_CSR."""
    buffer = host.blank()
    error, data = host.ask(sev.SEV_CMD_PEK_CSR, sev.sev_data_pek_csr(address=buffer, len=CERT))
    assert (error, data.len) == (SevFwError.SUCCESS, CERT)
    return host.memory.read(buffer, CERT)


def adopt(host: SevHost, pek: bytes, oca: bytes, length: int = CERT) -> SevFwError:
    data = sev.sev_data_pek_cert_import(
        pek_cert_address=host.put(pek),
        pek_cert_len=length,
        oca_cert_address=host.put(oca),
        oca_cert_len=CERT,
    )
    return host.error(sev.SEV_CMD_PEK_CERT_IMPORT, data)


def test_owner_takes_the_platform(host: SevHost) -> None:
    """The PEK stays, signed by the new owner and the chip; the PDH is renewed."""
    before = export(host)
    key = ec.generate_private_key(ec.SECP384R1())
    oca = signed(certificate(OCA, key.public_key()), OCA, key)
    csr = request(host)
    assert Certificate(csr).signers == [UNUSED, UNUSED]
    pek = signed(csr, OCA, key)
    assert host.platform().flags & 1 == 0
    assert adopt(host, pek, oca) == SevFwError.SUCCESS
    assert host.platform().flags & 1 == 1
    after = export(host)
    assert after[2].raw == oca
    assert after[1].key == before[1].key
    assert after[1].signed_by(after[2])
    assert after[1].signed_by(after[3])
    assert after[0].key != before[0].key
    assert after[0].signed_by(after[1])
    assert adopt(host, pek, oca) == SevFwError.ALREADY_OWNED
    host.must(sev.SEV_CMD_PEK_GEN)
    assert host.platform().flags & 1 == 0


def test_import_is_refused(host: SevHost) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    oca = signed(certificate(OCA, key.public_key()), OCA, key)
    pek = signed(request(host), OCA, key)
    assert adopt(host, pek, oca, CERT - 1) == SevFwError.INVALID_LEN
    assert adopt(host, pek, bytes(CERT)) == SevFwError.INVALID_CERTIFICATE
    assert adopt(host, request(host), oca) == SevFwError.INVALID_CERTIFICATE
    stranger = ec.generate_private_key(ec.SECP384R1())
    foreign = signed(certificate(PEK, stranger.public_key()), OCA, key)
    assert adopt(host, foreign, oca) == SevFwError.INVALID_CERTIFICATE
    forged = signed(request(host), OCA, stranger)
    assert adopt(host, forged, oca) == SevFwError.BAD_SIGNATURE
    assert host.platform().flags & 1 == 0


# -- sessions and secrets ------------------------------------------------------------------


def test_owner_measures_and_puts_a_secret_into_the_guest(host: SevHost) -> None:
    owner, policy = Owner(), 0x37010000 | ES
    assert start(host, owner, policy) == SevFwError.SUCCESS
    assert host.bind(1, 1) == SevFwError.SUCCESS
    page = host.blank()
    host.memory.write(page, b"what the guest boots")
    assert host.update_data(1, page) == SevFwError.SUCCESS
    _, _, output = host.measure(1)
    digest = hashlib.sha256(b"what the guest boots".ljust(PAGE_SIZE, b"\0")).digest()
    head = b"\x04\x01\x37\x28" + policy.to_bytes(4, "little")
    assert output[:32] == mac(owner.tik, head, digest, output[32:])

    secret = b"the disk's key is seventeen   "[:32].ljust(32, b"!")
    assert give(host, owner.packet(secret, output[:32]), page) == SevFwError.SUCCESS
    assert host.memory.read(page, 33) == secret + b"\0"
    assert host.launch_finish(1) == SevFwError.SUCCESS


def give(host: SevHost, packet: tuple[bytes, bytes], page: int, **fields: int) -> SevFwError:
    given = {
        "handle": 1,
        "hdr_address": host.put(packet[0]),
        "hdr_len": HEADER,
        "guest_address": page,
        "guest_len": len(packet[1]),
        "trans_address": host.put(packet[1]),
        "trans_len": len(packet[1]),
        **fields,
    }
    return host.error(sev.SEV_CMD_LAUNCH_UPDATE_SECRET, sev.sev_data_launch_secret(**given))


def test_secrets_are_refused(host: SevHost) -> None:
    owner = Owner()
    assert start(host, owner) == SevFwError.SUCCESS
    assert host.bind(1, 5) == SevFwError.SUCCESS
    measurement = host.measure(1)[2][:32]
    header, body = owner.packet(bytes(32), measurement)
    page = host.blank()
    bad = SevFwError.BAD_MEASUREMENT
    assert give(host, owner.packet(bytes(32), bytes(32)), page) == bad
    for at in (0, 4, 20, 51):
        wrong = header[:at] + bytes((header[at] ^ 1,)) + header[at + 1 :]
        assert give(host, (wrong, body), page) == bad
    assert give(host, (header, body[:-1] + b"?"), page) == bad
    compressed = owner.packet(bytes(32), measurement, flags=1)
    assert give(host, compressed, page) == SevFwError.UNSUPPORTED
    wrong_lengths: list[dict[str, int]] = [
        {"hdr_len": HEADER - 1},
        {"guest_len": 16},
        {"guest_len": 0, "trans_len": 0},
        {"guest_len": 24, "trans_len": 24},
        {"guest_len": 0x4010, "trans_len": 0x4010},
    ]
    for fields in wrong_lengths:
        assert give(host, (header, body), page, **fields) == SevFwError.INVALID_LEN
    assert give(host, (header, body), page + 8) == SevFwError.INVALID_ADDRESS
    if host.snp:
        assert give(host, (header, body), host.page()) == SevFwError.INVALID_PAGE_STATE
    assert not any(host.memory.read(page, PAGE_SIZE))
    assert give(host, (header, body), page) == SevFwError.SUCCESS


def test_sessions_are_refused(host: SevHost) -> None:
    owner, pdh = Owner(), export(host)[0]
    session = owner.session(pdh, 0)
    for at in (0, 16, 64, 96):
        wrong = session[:at] + bytes((session[at] ^ 1,)) + session[at + 1 :]
        assert start(host, owner, 0, wrong) == SevFwError.BAD_MEASUREMENT
    assert start(host, owner, 1, session) == SevFwError.BAD_MEASUREMENT
    owner.cert = certificate(PEK, owner.key.public_key(), 3)
    assert start(host, owner, 0, session) == SevFwError.INVALID_CERTIFICATE
    assert len(host.psp.sev_guests) == 0


@pytest.mark.parametrize("policy", [0x38010000, 0x00020000, 1 << 6, 1 << 15])
def test_policy_that_an_owner_cannot_have(host: SevHost, policy: int) -> None:
    """Newer API than the firmware's, or reserved bits."""
    assert start(host, Owner(), policy) == SevFwError.POLICY_FAILURE


def test_lengths_of_a_session(host: SevHost) -> None:
    for lengths in ((CERT, SESSION - 1), (CERT - 1, SESSION), (0, 0)):
        data = sev.sev_data_launch_start(
            dh_cert_address=host.put(bytes(CERT)),
            dh_cert_len=lengths[0],
            session_address=host.page(),
            session_len=lengths[1],
        )
        assert host.error(sev.SEV_CMD_LAUNCH_START, data) == SevFwError.INVALID_LEN


# -- attestation ---------------------------------------------------------------------------


def test_attestation_report(host: SevHost) -> None:
    handle = host.ready(ES)
    buffer = host.blank()
    data = sev.sev_data_attestation_report(
        handle=handle, address=buffer, mnonce=b"verifier's nonce", len=16
    )
    error, answer = host.ask(sev.SEV_CMD_ATTESTATION_REPORT, data)
    assert (error, answer.len) == (SevFwError.INVALID_LEN, REPORT)
    data.len = REPORT
    error, answer = host.ask(sev.SEV_CMD_ATTESTATION_REPORT, data)
    assert (error, answer.len) == (SevFwError.SUCCESS, REPORT)
    report = host.memory.read(buffer, REPORT)
    assert report[:16] == b"verifier's nonce"
    assert report[16:48] == hashlib.sha256().digest()
    assert report[48:52] == ES.to_bytes(4, "little")
    assert report[52:56] == PEK.to_bytes(4, "little")
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (64, 136))
    pek = export(host)[1].key
    pek.verify(utils.encode_dss_signature(r, s), report[:52], ec.ECDSA(hashes.SHA256()))


# -- migration -----------------------------------------------------------------------------


def send_start(host: SevHost, handle: int, pdh: bytes, **fields: int) -> tuple[int, int, bytes]:
    """Status, session's length, session."""
    buffer = host.blank()
    given = {
        "pdh_cert_address": host.put(pdh),
        "pdh_cert_len": CERT,
        "session_address": buffer,
        "session_len": SESSION,
        **fields,
    }
    error, data = host.ask(sev.SEV_CMD_SEND_START, sev.sev_data_send_start(handle=handle, **given))
    return error, data.session_len, host.memory.read(buffer, SESSION)


def receive_start(host: SevHost, pdh: bytes, session: bytes, policy: int) -> tuple[int, int]:
    data = sev.sev_data_receive_start(
        policy=policy,
        pdh_cert_address=host.put(pdh),
        pdh_cert_len=CERT,
        session_address=host.put(session),
        session_len=SESSION,
    )
    error, data = host.ask(sev.SEV_CMD_RECEIVE_START, data)
    return error, data.handle


def send(
    host: SevHost, handle: int, page: int, cmd: int, **fields: int
) -> tuple[int, bytes, bytes]:
    """Status, header, body."""
    header, body = host.blank(), host.blank()
    given = {
        "hdr_address": header,
        "hdr_len": HEADER,
        "guest_address": page,
        "guest_len": PAGE_SIZE,
        "trans_address": body,
        "trans_len": PAGE_SIZE,
        **fields,
    }
    error = host.error(cmd, sev.sev_data_send_update_data(handle=handle, **given))
    return error, host.memory.read(header, HEADER), host.memory.read(body, PAGE_SIZE)


def receive(host: SevHost, handle: int, packet: tuple[bytes, bytes], page: int, cmd: int) -> int:
    data = sev.sev_data_receive_update_data(
        handle=handle,
        hdr_address=host.put(packet[0]),
        hdr_len=HEADER,
        guest_address=page,
        guest_len=PAGE_SIZE,
        trans_address=host.put(packet[1]),
        trans_len=PAGE_SIZE,
    )
    return host.error(cmd, data)


@pytest.mark.parametrize("policy", [0, ES], ids=["SEV", "SEV-ES"])
def test_guest_moves_to_another_platform(host: SevHost, policy: int) -> None:
    content = b"moving" * 600
    with sev_host(snp=host.snp, seed=2) as other:
        handle = host.ready(policy)
        page = host.put(content)
        error, _, session = send_start(host, handle, export(other)[0].raw)
        assert error == SevFwError.SUCCESS
        assert host.guest(handle).state == SUPDATE
        error, arrived = receive_start(other, export(host)[0].raw, session, policy)
        assert error == SevFwError.SUCCESS
        assert other.guest(arrived).state == RUPDATE
        assert other.bind(arrived, 1 if policy else 5) == SevFwError.SUCCESS

        pairs = [(sev.SEV_CMD_SEND_UPDATE_DATA, sev.SEV_CMD_RECEIVE_UPDATE_DATA)]
        if policy:
            pairs.append((sev.SEV_CMD_SEND_UPDATE_VMSA, sev.SEV_CMD_RECEIVE_UPDATE_VMSA))
        for out, into in pairs:
            error, header, body = send(host, handle, page, out)
            assert error == SevFwError.SUCCESS
            assert content[:64] not in body
            target = other.blank()
            forged = bytes((body[0] ^ 1,)) + body[1:]
            bad = SevFwError.BAD_MEASUREMENT
            assert receive(other, arrived, (header, forged), target, into) == bad
            assert not any(other.memory.read(target, PAGE_SIZE))
            assert receive(other, arrived, (header, body), target, into) == SevFwError.SUCCESS
            assert other.memory.read(target, len(content)) == content

        finish = sev.sev_data_send_finish(handle=handle)
        assert host.error(sev.SEV_CMD_SEND_FINISH, finish) == SevFwError.SUCCESS
        assert host.guest(handle).state == SENT
        finish_in = sev.sev_data_receive_finish(handle=arrived)
        assert other.error(sev.SEV_CMD_RECEIVE_FINISH, finish_in) == SevFwError.SUCCESS
        assert other.guest(arrived).state == RUNNING
        assert host.unbind(handle) == SevFwError.SUCCESS
        assert host.bind(handle, 6) == SevFwError.INVALID_GUEST_STATE


def test_sending_can_be_cancelled(host: SevHost) -> None:
    handle = host.ready()
    assert send_start(host, handle, export(host)[0].raw)[0] == SevFwError.SUCCESS
    cancel = sev.sev_data_send_cancel(handle=handle)
    assert host.error(sev.SEV_CMD_SEND_CANCEL, cancel) == SevFwError.SUCCESS
    assert host.guest(handle).state == RUNNING


def test_lengths_of_what_is_sent(host: SevHost) -> None:
    handle = host.ready()
    pdh = export(host)[0].raw
    queried = send_start(host, handle, pdh, session_len=0)[:2]
    assert queried == (SevFwError.INVALID_LEN, SESSION)
    assert send_start(host, handle, pdh, pdh_cert_len=1)[0] == SevFwError.INVALID_LEN
    assert send_start(host, handle, pdh)[0] == SevFwError.SUCCESS
    data = sev.sev_data_send_update_data(handle=handle)
    error, data = host.ask(sev.SEV_CMD_SEND_UPDATE_DATA, data)
    assert (error, data.hdr_len) == (SevFwError.INVALID_LEN, HEADER)
    page = host.page()
    cmd = sev.SEV_CMD_SEND_UPDATE_DATA
    for length in (0, 24, 0x4010):
        assert send(host, handle, page, cmd, guest_len=length)[0] == SevFwError.INVALID_LEN
    assert send(host, handle, page, cmd, trans_len=16)[0] == SevFwError.INVALID_LEN
    assert send(host, handle, page + 8, cmd)[0] == SevFwError.INVALID_ADDRESS
    vmsa = send(host, handle, page, sev.SEV_CMD_SEND_UPDATE_VMSA)
    assert vmsa[0] == SevFwError.UNSUPPORTED


def test_policies_that_forbid_sending(host: SevHost) -> None:
    pdh, pek, oca, cek = export(host)
    assert send_start(host, host.ready(NOSEND, 5), pdh.raw)[0] == SevFwError.POLICY_FAILURE
    assert send_start(host, host.ready(SEV_ONLY, 6), pdh.raw)[0] == SevFwError.UNSUPPORTED
    handle = host.ready(DOMAIN, 7)
    chain = host.put(pek.raw + oca.raw + cek.raw)
    own = {"plat_certs_address": chain, "plat_certs_len": 3 * CERT}
    assert send_start(host, handle, pdh.raw)[0] == SevFwError.INVALID_LEN
    with sev_host(snp=host.snp, seed=3) as other:
        theirs = export(other)
        foreign = host.put(b"".join(cert.raw for cert in theirs[1:]))
        fields = {"plat_certs_address": foreign, "plat_certs_len": 3 * CERT}
        error = send_start(host, handle, theirs[0].raw, **fields)[0]
        assert error == SevFwError.POLICY_FAILURE
        assert send_start(host, handle, theirs[0].raw, **own)[0] == SevFwError.BAD_SIGNATURE
    assert send_start(host, handle, pdh.raw, **own)[0] == SevFwError.SUCCESS


def test_session_for_another_platform(host: SevHost) -> None:
    """Only the platform whose PDH the session was made for can open it."""
    handle = host.ready()
    pdh = export(host)[0].raw
    with sev_host(snp=host.snp, seed=4) as other:
        session = send_start(host, handle, export(other)[0].raw)[2]
    assert receive_start(host, pdh, session, 0)[0] == SevFwError.BAD_MEASUREMENT
