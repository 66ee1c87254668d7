"""The generated gRPC code is what its .proto files give."""

from __future__ import annotations

from pathlib import Path

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
    from ringfence.model.wire import approval_service_pb2, release_service_pb2

    for file in (release_service_pb2.DESCRIPTOR, approval_service_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                assert method.output_type.name == f"{method.name}Response"
        for enum in file.enum_types_by_name.values():
            prefix = f"{enum.name.upper()}_"
            assert enum.values[0].name == f"{prefix}UNSPECIFIED"
            assert all(value.name.startswith(prefix) for value in enum.values)
