"""The parser of fat binaries, and the driver's rule of choice, on containers made by hand."""

from __future__ import annotations

import pytest
from device_code import choice
from device_code.fatbin import FatbinError, Flag, Kind

from tests.support.fat_binaries import container, entry, parsed


def names(data: bytes, gpu: int) -> list[str]:
    [found] = parsed(data)
    return [entry.name for entry in choice.chosen(found, gpu)]


def test_containers_and_entries_are_found() -> None:
    first = container(entry("sm_80", 64), entry("sm_90a", 128, compressed=True))
    second = container(entry("compute_90", 512, compressed=True, head=64))
    found = parsed(first + bytes(24) + second + bytes(5))
    assert [(c.offset, c.size) for c in found] == [
        (0, len(first)), (len(first) + 24, len(second)),
    ]  # fmt: skip
    assert [[(e.name, e.kind, e.size, e.exact) for e in c.entries] for c in found] == [
        [("sm_80", Kind.MACHINE_CODE, 128, False), ("sm_90a", Kind.MACHINE_CODE, 192, True)],
        [("compute_90", Kind.PTX, 576, False)],
    ]
    assert found[1].entries[0].offset == found[1].offset + 16


def test_a_section_without_containers_is_valid() -> None:
    assert parsed(b"") == parsed(bytes(40)) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\1" + bytes(63), "magic 0x1"),
        (container(entry("sm_80"), version=2), "container version 2"),
        (container(entry("sm_80"), head=24), "container header of 24"),
        (container(entry("sm_80"), size=10_000), "longer than its section"),
        (container(), "without entries"),
        (container(entry("sm_80"))[:-8], "longer than its section"),
        (container(entry("sm_80")) + container(entry("sm_80"))[:12], "header that is cut off"),
        (container(entry("sm_80"), bytes(8)), "header that is cut off"),
        (container(entry("sm_80", kind=4)), "kind 4"),
        (container(entry("sm_80", version=0x102)), "entry version 0x102"),
        (container(entry("sm_80", head=56)), "entry header of 56"),
        (container(entry("sm_80", size=0)), "body of 0"),
        (container(entry("sm_80", size=255)), "body of 255"),
        (container(entry("sm_80", size=264)), "longer than its container"),
        (container(entry("sm_80", options=72)), "options at 72"),
        (container(entry("sm_80", arch=8)), "architecture 8"),
        (container(entry("sm_80", name=64)), "name or unknown field"),
        (container(entry("sm_80", name_length=3)), "name or unknown field"),
        (container(entry("sm_80", zero=1)), "name or unknown field"),
        (container(entry("sm_80", flags=0x11 | 0xA000)), "flags 0xa011"),
        (container(entry("sm_90", flags=0x11 | 0x1000000)), "flags 0x1000011"),
        (container(entry("sm_100", flags=0x11)), "flags 0x11"),
        (container(entry("compute_120", flags=0x11 | 0x1000000)), "flags 0x1000011"),
        (container(entry("sm_80", flags=0x11 | 0x400000)), "flags 0x400011"),
        (container(entry("sm_90", flags=0x11 | 0x200000)), "flags 0x200011"),
        (container(entry("compute_100", flags=0x11 | 0x200000)), "flags 0x200011"),
        (container(entry("sm_80", packed=256)), "without the flag"),
        (container(entry("sm_80", unpacked=256)), "without the flag"),
        (container(entry("sm_80", compressed=True, packed=257)), "257 compressed of 256"),
        (container(entry("sm_80", compressed=True, packed=200)), "200 compressed of 256"),
        (container(entry("sm_80", compressed=True, unpacked=0)), "without its decompressed size"),
        (container(entry("sm_80", compressed=True, flags=0x11, packed=0, unpacked=0)), "not ELF"),
    ],
)  # fmt: skip
def test_an_unknown_format_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FatbinError, match=message):
        parsed(data)


def test_the_highest_machine_code_of_the_same_major_version_is_chosen() -> None:
    data = container(*map(entry, ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"]))
    assert [names(data, gpu) for gpu in (75, 80, 86, 89, 90)] == [
        ["sm_75"], ["sm_80"], ["sm_86"], ["sm_86"], ["sm_90"],
    ]  # fmt: skip


def test_code_of_another_major_version_is_not_chosen() -> None:
    data = container(entry("sm_70"), entry("sm_90"))
    assert [names(data, gpu) for gpu in (80, 89, 100)] == [[], [], []]


def test_code_above_the_gpu_is_not_chosen() -> None:
    data = container(entry("sm_89"), entry("compute_89"))
    assert names(data, 86) == []


def test_ptx_is_chosen_only_without_machine_code() -> None:
    data = container(*map(entry, ["compute_50", "compute_80", "sm_86", "compute_90"]))
    assert names(data, 80) == ["compute_80"]
    assert names(data, 86) == ["sm_86"]
    assert names(data, 89) == ["sm_86"]
    assert names(data, 90) == ["compute_90"]


def test_architecture_specific_code_needs_exactly_its_architecture() -> None:
    data = container(*map(entry, ["sm_80", "sm_86a", "compute_80a", "sm_90a"]))
    assert names(data, 86) == ["sm_86a"]
    assert names(data, 89) == ["sm_80"]
    assert names(data, 90) == ["sm_90a"]
    assert names(container(entry("compute_80a")), 89) == []


def test_blackwell_is_two_major_versions() -> None:
    data = container(*map(entry, ["sm_90a", "sm_100", "sm_100a", "sm_120", "compute_120"]))
    assert names(data, 100) == ["sm_100", "sm_100a"]
    assert names(data, 103) == ["sm_100"]
    assert names(data, 120) == ["sm_120"]
    assert names(container(entry("sm_100"), entry("sm_120a")), 121) == []


def test_code_for_a_family_runs_on_later_architectures_of_it() -> None:
    data = container(entry("sm_100", flags=0x1200011), entry("sm_120", flags=0x1200011))
    assert [names(data, gpu) for gpu in (100, 103, 120, 121)] == [
        ["sm_100"], ["sm_100"], ["sm_120"], ["sm_120"],
    ]  # fmt: skip


def test_blackwell_is_given_the_ptx_of_flash_attention() -> None:
    """Its containers have machine code and PTX for 8.0 and nothing else."""
    [found] = parsed(container(entry("sm_80"), entry("compute_80", compressed=True)))
    assert [e.name for e in choice.kept(found, (100, 120))] == ["compute_80"]
    assert [e.name for e in choice.kept(found, (80, 86, 89, 120))] == ["sm_80", "compute_80"]
    assert [e.name for e in choice.kept(found, (80, 89))] == ["sm_80"]


def test_all_code_of_the_highest_architecture_is_chosen() -> None:
    data = container(entry("sm_90"), entry("sm_80"), entry("sm_90a"), entry("sm_90", seed=1))
    assert names(data, 90) == ["sm_90", "sm_90a", "sm_90"]


def test_code_for_tegra_does_not_replace_other_code() -> None:
    """Whether the driver skips it is not documented: both readings are kept."""
    data = container(*map(entry, ["sm_80", "sm_86", "sm_87", "sm_90"]))
    assert names(data, 89) == ["sm_86", "sm_87"]
    assert names(data, 87) == ["sm_87"]
    assert names(data, 86) == ["sm_86"]
    assert names(container(entry("sm_87"), entry("compute_80")), 89) == ["sm_87", "compute_80"]


def test_what_any_gpu_is_given_is_kept_in_order() -> None:
    [found] = parsed(
        container(*map(entry, ["sm_50", "sm_90", "sm_80", "sm_86", "compute_90", "sm_89"]))
    )
    assert [e.name for e in choice.kept(found, (80, 86, 89, 90))] == [
        "sm_90", "sm_80", "sm_86", "sm_89",
    ]  # fmt: skip
    assert [e.name for e in choice.kept(found, (89,))] == ["sm_89"]


def test_a_container_is_never_empty() -> None:
    [found] = parsed(container(entry("sm_70", 512), entry("sm_75", 256), entry("sm_90", 768)))
    assert [e.name for e in choice.kept(found, (80, 89))] == ["sm_75"]
    assert choice.chosen(found, 80) == ()


def test_known_flags_are_those_of_the_real_libraries() -> None:
    assert Flag(0x102011) == (
        Flag.ADDRESS_64 | Flag.HOST_LINUX | Flag.COMPRESSED | Flag.ARCH_SPECIFIC
    )
    zstandard = entry("sm_120a", flags=0x1108011, packed=250, unpacked=999)
    [found] = parsed(container(zstandard, entry("sm_100", compressed=True)))
    assert [e.name for e in found.entries] == ["sm_120a", "sm_100"]
