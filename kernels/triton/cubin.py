"""What NVIDIA's compiler made of a kernel, read from its machine code (an ELF file); needs no tool of NVIDIA's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Code", "read_cubin"]

_REGISTERS, _FRAME = 0x2F, 0x11
"""Attributes of a function in `.nv.info`, as `cuobjdump -elf` names them: EIATTR_REGCOUNT, EIATTR_FRAME_SIZE."""
_WITH_PAYLOAD = 4
_STORE_LOCAL, _LOAD_LOCAL = 0x387, 0x983
"""Operation codes of STL and LDL: the low 12 bits of an instruction of 16 bytes (compute capability 7.0 and later)."""
_BYTES = (1, 1, 2, 2, 4, 8, 16)
"""What such an instruction moves, by the number in its bits 73 to 75."""


@dataclass(frozen=True, slots=True)
class Code:
    """Registers of a thread, and what does not fit into them: bytes of its stack, written to it and read from it.

    Bytes written and read count each instruction once, as `ptxas -v` does ("spill stores", "spill loads").
    """

    registers: int
    stack: int
    stored: int
    loaded: int

    @property
    def spilled(self) -> int:
        """Bytes of a thread that went to memory for want of registers: the larger of its stack and what it stores."""
        return max(self.stack, self.stored)


def read_cubin(cubin: bytes) -> Code:
    """What the code of a kernel takes; the most of all functions in it, and the sum of what they spill.

    Raises:
        ValueError: for what is not a 64-bit ELF file with a `.nv.info` section.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError("the machine code is not a 64-bit ELF file")
    sections = dict(_sections(cubin))
    if ".nv.info" not in sections:
        raise ValueError(f"the machine code has no section .nv.info, only {sorted(sections)}")
    found = {_REGISTERS: 0, _FRAME: 0}
    for attribute, payload in _attributes(sections[".nv.info"]):
        if attribute in found:
            found[attribute] = max(found[attribute], struct.unpack_from("<II", payload)[1])
    moved = {_STORE_LOCAL: 0, _LOAD_LOCAL: 0}
    for name, content in sections.items():
        if name.startswith(".text."):
            for low, high in struct.iter_unpack("<QQ", content):
                if low & 0xFFF in moved:
                    moved[low & 0xFFF] += _BYTES[high >> 9 & 7]
    return Code(found[_REGISTERS], found[_FRAME], moved[_STORE_LOCAL], moved[_LOAD_LOCAL])


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the sections of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, number, of_names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + n * size) for n in range(number)]
    names = headers[of_names][4]
    for name, kind, _, _, offset, length in headers:
        if kind != 8:  # SHT_NOBITS has no content in the file
            end = elf.index(b"\0", names + name)
            yield elf[names + name : end].decode(), elf[offset : offset + length]


def _attributes(info: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and payloads of the attributes that have a payload."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _WITH_PAYLOAD:
            yield attribute, info[at : at + size]
            at += size
