# SPDX-License-Identifier: GPL-2.0-only
"""The firmware model: launch digest, special pages, ID block."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha384
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure.gctx import GCTX

from harness.emulator.memory import PAGE_SIZE, PAGE_SIZE_2M
from harness.emulator.psp.keys import public_key, sign
from harness.emulator.rmp import PageState
from harness.uapi import sev
from harness.uapi.errors import SevFwError
from harness.uapi.guest_message import snp_cpuid_fn, snp_cpuid_table, snp_secrets_page
from tests.psp_host import POLICY, PspHost, psp_host

VMSA_GPA = 0xFFFFFFFFF000


@pytest.fixture(scope="module")
def host() -> Iterator[PspHost]:
    with psp_host() as made:
        yield made


@pytest.fixture
def gctx(host: PspHost) -> Iterator[int]:
    made = host.launching()
    yield made
    assert host.decommission(made) == SevFwError.SUCCESS
    host.must(sev.SEV_CMD_SNP_DF_FLUSH)


def digest(host: PspHost, gctx: int) -> bytes:
    return host.psp.guests.find(gctx).digest.value


def put(host: PspHost, gctx: int, gpa: int, page_type: int, content: bytes = b"") -> int:
    pa = host.page()
    host.memory.write(pa, content)
    host.assign(pa, gpa, 1)
    assert host.update(gctx, pa, page_type) == SevFwError.SUCCESS
    return pa


# -- digest --------------------------------------------------------------------------------


one_page = st.tuples(st.integers(1, 6), st.integers(0, 1 << 30), st.binary(max_size=16))


@given(st.lists(one_page, max_size=8))
@settings(max_examples=25, deadline=None)
def test_digest_equals_that_of_sev_snp_measure(
    host: PspHost, pages: list[tuple[int, int, bytes]]
) -> None:
    oracle: Any = GCTX()
    guest = host.launching()
    for page_type, gfn, content in pages:
        gpa = VMSA_GPA if page_type == sev.SNP_PAGE_TYPE_VMSA else gfn << 12
        page = content.ljust(PAGE_SIZE, b"\0")
        is_cpuid = page_type == sev.SNP_PAGE_TYPE_CPUID
        put(host, guest, gpa, page_type, bytes(PAGE_SIZE) if is_cpuid else page)
        match page_type:
            case sev.SNP_PAGE_TYPE_NORMAL:
                oracle.update_normal_pages(gpa, page)
            case sev.SNP_PAGE_TYPE_VMSA:
                oracle.update_vmsa_page(page)
            case sev.SNP_PAGE_TYPE_ZERO:
                oracle.update_zero_pages(gpa, PAGE_SIZE)
            case sev.SNP_PAGE_TYPE_UNMEASURED:
                oracle.update_unmeasured_pages(gpa, PAGE_SIZE)
            case sev.SNP_PAGE_TYPE_SECRET:
                oracle.update_secrets_page(gpa)
            case sev.SNP_PAGE_TYPE_CPUID:
                oracle.update_cpuid_page(gpa)
    assert digest(host, guest) == oracle.ld()
    assert host.decommission(guest) == SevFwError.SUCCESS
    host.must(sev.SEV_CMD_SNP_DF_FLUSH)


def test_2m_page_is_measured_as_512_pages(host: PspHost, gctx: int) -> None:
    pa = host.huge_page()
    content = bytes(range(256)) * (PAGE_SIZE_2M // 256)
    host.memory.write(pa, content)
    host.assign(pa, PAGE_SIZE_2M, 1, huge=True)
    assert host.update(gctx, pa, page_size=1) == SevFwError.SUCCESS
    oracle: Any = GCTX()
    oracle.update_normal_pages(PAGE_SIZE_2M, content)
    assert digest(host, gctx) == oracle.ld()


def test_permissions_and_imi_are_measured(host: PspHost) -> None:
    seen = set()
    for asid, fields in enumerate(
        ({}, {"vmpl1_perms": 1}, {"vmpl2_perms": 1}, {"vmpl3_perms": 1}, {"imi_page": 1}), 10
    ):
        guest = host.launching(asid, imi_en=1)
        pa = host.assign(host.page(), 0, asid)
        assert host.update(guest, pa, **fields) == SevFwError.SUCCESS
        seen.add(digest(host, guest))
    assert len(seen) == 5


def test_page_info_has_the_specified_layout(host: PspHost) -> None:
    guest = host.launching(asid=30, imi_en=1)
    pa = host.assign(host.page(), 0x1234000, 30)
    fields = {"vmpl1_perms": 1, "vmpl2_perms": 2, "vmpl3_perms": 3, "imi_page": 1}
    assert host.update(guest, pa, **fields) == SevFwError.SUCCESS
    info = bytearray(0x70)
    info[0x30:0x60] = sha384(bytes(PAGE_SIZE)).digest()
    info[0x60:0x68] = bytes([0x70, 0, 1, 1, 3, 2, 1, 0])
    info[0x68:0x70] = (0x1234000).to_bytes(8, "little")
    assert digest(host, guest) == sha384(info).digest()


# -- special pages -------------------------------------------------------------------------


def test_zero_page_is_cleared_and_unmeasured_page_is_not(host: PspHost, gctx: int) -> None:
    content = b"\xaa" * PAGE_SIZE
    zero = put(host, gctx, 0, sev.SNP_PAGE_TYPE_ZERO, content)
    unmeasured = put(host, gctx, PAGE_SIZE, sev.SNP_PAGE_TYPE_UNMEASURED, content)
    assert host.memory.read(zero, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert host.memory.read(unmeasured, PAGE_SIZE) == content


def test_secrets_page_has_four_keys_and_the_workarounds(host: PspHost) -> None:
    guest = host.launching(asid=20, imi_en=1, gosvw=bytes(range(16)))
    pa = host.assign(host.page(), 0, 20)
    assert host.update(guest, pa, sev.SNP_PAGE_TYPE_SECRET) == SevFwError.SUCCESS
    page = snp_secrets_page.from_bytes(host.memory.read(pa, PAGE_SIZE))
    assert (page.version, page.imien, bytes(page.gosvw)) == (3, 1, bytes(range(16)))
    keys = {bytes(getattr(page, f"vmpck{n}")) for n in range(4)}
    assert len(keys) == 4
    assert bytes(32) not in keys


def cpuid_page(*functions: snp_cpuid_fn, count: int | None = None) -> bytes:
    table = snp_cpuid_table(count=len(functions) if count is None else count)
    for index, function in enumerate(functions):
        table.fn[index] = function
    return bytes(table).ljust(PAGE_SIZE, b"\0")


XSAVE_RIGHT = snp_cpuid_fn(eax_in=0xD, ecx_in=0, xcr0_in=7, ebx=0x340)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (
            cpuid_page(snp_cpuid_fn(eax_in=1, ecx=1 << 24 | 1)),
            cpuid_page(snp_cpuid_fn(eax_in=1, ecx=1)),
        ),
        (cpuid_page(snp_cpuid_fn(eax_in=0xD, xcr0_in=7, ebx=0x988)), cpuid_page(XSAVE_RIGHT)),
        (
            cpuid_page(snp_cpuid_fn(eax_in=0xD, ecx_in=1, xcr0_in=0x203, xss_in=0x800)),
            cpuid_page(snp_cpuid_fn(eax_in=0xD, ecx_in=1, xcr0_in=0x203, xss_in=0x800, ebx=0x258)),
        ),
        (cpuid_page(count=65), cpuid_page(count=64)),
        (bytes(7) + b"\1" + bytes(PAGE_SIZE - 8), bytes(PAGE_SIZE)),
        (cpuid_page(snp_cpuid_fn(eax_in=1, __reserved=9)), cpuid_page(snp_cpuid_fn(eax_in=1))),
    ],
)
def test_cpuid_page_is_corrected_and_accepted_then(
    host: PspHost, gctx: int, bad: bytes, good: bytes
) -> None:
    pa = host.page()
    host.memory.write(pa, bad)
    host.assign(pa, 0, 1)
    before = digest(host, gctx)
    assert host.update(gctx, pa, sev.SNP_PAGE_TYPE_CPUID) == SevFwError.INVALID_PARAM
    assert host.memory.read(pa, PAGE_SIZE) == good
    assert host.state(pa) == PageState.PRE_GUEST
    assert digest(host, gctx) == before
    assert host.update(gctx, pa, sev.SNP_PAGE_TYPE_CPUID) == SevFwError.SUCCESS
    assert host.memory.read(pa, PAGE_SIZE) == good


@pytest.mark.parametrize("leaf", [0x10000, 0x40000000, 0x40000001, 0x4FFFFFFF, 0x80010000])
def test_functions_outside_the_cpuid_ranges_pass_as_they_are(
    host: PspHost, gctx: int, leaf: int
) -> None:
    pa = host.page()
    page = cpuid_page(snp_cpuid_fn(eax_in=leaf, ecx_in=1, eax=1, ebx=2, ecx=0xFFFFFFFF, edx=4))
    host.memory.write(pa, page)
    host.assign(pa, 0, 1)
    assert host.update(gctx, pa, sev.SNP_PAGE_TYPE_CPUID) == SevFwError.SUCCESS
    assert host.memory.read(pa, PAGE_SIZE) == page


# -- ID block ------------------------------------------------------------------------------


class Owner:
    """A guest owner with an ID key and an author key."""

    def __init__(self) -> None:
        self.id_key = ec.derive_private_key(0x1234567, ec.SECP384R1())
        self.author_key = ec.derive_private_key(0x7654321, ec.SECP384R1())

    def block(self, measured: bytes, **fields: Any) -> sev.sev_id_block:
        known = {"family_id": b"f" * 16, "image_id": b"i" * 16, "guest_svn": 7}
        return sev.sev_id_block(
            **{"ld": measured, "version": 1, "policy": POLICY, **known, **fields}
        )

    def auth(self, block: sev.sev_id_block) -> sev.sev_id_auth:
        id_key = public_key(self.id_key.public_key())
        return sev.sev_id_auth(
            id_key_algo=1,
            auth_key_algo=1,
            id_block_sig=sign(self.id_key, bytes(block)),
            id_key=id_key,
            id_key_sig=sign(self.author_key, bytes(id_key)),
            author_key=public_key(self.author_key.public_key()),
        )


def finish_with(
    host: PspHost, gctx: int, block: sev.sev_id_block, auth: sev.sev_id_auth, author: bool = True
) -> SevFwError:
    block_pa, auth_pa = host.page(), host.page()
    host.memory.write(block_pa, bytes(block))
    host.memory.write(auth_pa, bytes(auth))
    return host.finish(
        gctx, id_block_en=1, auth_key_en=author, id_block_paddr=block_pa, id_auth_paddr=auth_pa
    )


@pytest.mark.parametrize("author", [False, True])
def test_id_block_that_fits_is_taken(host: PspHost, gctx: int, author: bool) -> None:
    owner = Owner()
    put(host, gctx, 0, sev.SNP_PAGE_TYPE_NORMAL, b"code")
    block = owner.block(digest(host, gctx))
    auth = owner.auth(block)
    assert finish_with(host, gctx, block, auth, author) == SevFwError.SUCCESS
    guest = host.psp.guests.find(gctx)
    assert (guest.family_id, guest.image_id, guest.guest_svn) == (b"f" * 16, b"i" * 16, 7)
    assert guest.id_key_digest == sha384(bytes(auth.id_key)).digest()
    expected = sha384(bytes(auth.author_key)).digest() if author else bytes(48)
    assert (guest.author_key_en, guest.author_key_digest) == (author, expected)


def _break(auth: sev.sev_id_auth, field: str) -> None:
    part = getattr(auth, field)
    part.r[3] ^= 1


@pytest.mark.parametrize(
    ("block_fields", "breakage", "error"),
    [
        ({"policy": POLICY | 1 << 19}, "", SevFwError.POLICY_FAILURE),
        ({"ld": b"\1" * 48}, "", SevFwError.BAD_MEASUREMENT),
        ({"version": 2}, "", SevFwError.INVALID_PARAM),
        ({}, "id_block_sig", SevFwError.BAD_SIGNATURE),
        ({}, "id_key_sig", SevFwError.BAD_SIGNATURE),
        ({}, "curve", SevFwError.BAD_SIGNATURE),
        ({}, "id_key_algo", SevFwError.INVALID_PARAM),
        ({}, "auth_key_algo", SevFwError.INVALID_PARAM),
        ({}, "no point", SevFwError.BAD_SIGNATURE),
    ],
)
def test_id_block_that_does_not_fit(
    host: PspHost, gctx: int, block_fields: dict[str, Any], breakage: str, error: SevFwError
) -> None:
    owner = Owner()
    block = owner.block(digest(host, gctx), **block_fields)
    auth = owner.auth(block)
    match breakage:
        case "id_block_sig" | "id_key_sig":
            _break(auth, breakage)
        case "curve":
            auth.id_key.curve = 1
        case "no point":
            auth.author_key.qx[0] ^= 1
        case "id_key_algo" | "auth_key_algo":
            setattr(auth, breakage, 2)
    assert finish_with(host, gctx, block, auth) == error
    # The guest can still be finished without.
    assert host.finish(gctx) == SevFwError.SUCCESS


def test_finish_refuses_parameters(host: PspHost, gctx: int) -> None:
    assert host.finish(gctx, auth_key_en=1) == SevFwError.INVALID_PARAM
    assert host.finish(gctx, rsvd=1) == SevFwError.INVALID_PARAM
    error = host.finish(gctx, id_block_en=1, id_block_paddr=1 << 40)
    assert error == SevFwError.INVALID_ADDRESS
