"""The generated gRPC code is what its .proto files give."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ringfence.model.wire
from ringfence.model.wire.generate import generate, rewrite_imports

WIRE = Path(ringfence.model.wire.__path__[0])


def test_the_generated_code_is_what_the_proto_files_give(tmp_path: Path) -> None:
    names = generate(tmp_path)
    checked_in = sorted(path.name for path in WIRE.glob("*_pb2*.py*"))
    assert names == checked_in
    for name in names:
        assert (tmp_path / name).read_text() == (WIRE / name).read_text(), f"{name}: run make wire"


def test_generated_imports_resolve_in_the_package() -> None:
    code = "from ringfence.v1 import a_pb2 as x\nimport ringfence.v1.a_pb2\n"
    assert rewrite_imports(code) == (
        "from ringfence.model.wire import a_pb2 as x\nimport ringfence.model.wire.a_pb2\n"
    )


def test_every_method_has_its_own_request_and_response_and_every_enum_its_prefix() -> None:
    sources = [path.stem for path in (WIRE / "ringfence" / "v1").glob("*.proto")]
    assert len(sources) >= 5
    for source in sources:
        file = importlib.import_module(f"ringfence.model.wire.{source}_pb2").DESCRIPTOR
        for service in file.services_by_name.values():
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                assert method.output_type.name == f"{method.name}Response"
        for enum in file.enum_types_by_name.values():
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
            assert enum.values[0].name == f"{prefix}UNSPECIFIED"
            assert all(value.name.startswith(prefix) for value in enum.values)


PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("message NotUsed { int32 camelCase = 1; }", "FIELD_LOWER_SNAKE_CASE"),
        ("enum Odd { FIRST = 0; }", "ENUM_ZERO_VALUE_SUFFIX"),
        ("service Bare { rpc Get(GetRunRequest) returns (GetRunRequest); }", "RPC_RESPONSE_STANDARD_NAME"),
    ],
)
def test_make_check_refuses_a_proto_file_that_breaks_a_rule(tmp_path: Path, line: str, rule: str) -> None:
    buf = Path(sys.executable).parent / "buf"
    if not buf.exists():
        pytest.skip("buf is not installed beside this Python")
    shutil.copy(PROJECT / "buf.yaml", tmp_path)
    shutil.copytree(WIRE / "ringfence", tmp_path / "model" / "wire" / "ringfence")
    assert _lint(buf, tmp_path).returncode == 0
    with (tmp_path / "model/wire/ringfence/v1/federation_service.proto").open("a") as file:
        file.write(line)
    spoilt = _lint(buf, tmp_path)
    assert spoilt.returncode != 0
    assert rule in spoilt.stdout


def _lint(buf: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [buf, "lint", "--error-format=json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
