"""A manifest's environment tells machines apart that don't compute the same bytes."""

from pathlib import Path

import pytest

from critic.audit import environment

CPUINFO = "processor\t: {number}\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 {more}\n\n"


@pytest.mark.parametrize(
    ("more", "processor"),
    [("", "AMD EPYC, avx2"), ("avx512f avx512_bf16", "AMD EPYC, avx2 avx512f avx512_bf16")],
)
def test_processors_of_one_name_differ_in_their_instructions(
    more: str, processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("".join(CPUINFO.format(number=number, more=more) for number in range(2)))
    monkeypatch.setattr(environment, "_CPUINFO", file)
    assert environment.describe(tmp_path).processor == processor
