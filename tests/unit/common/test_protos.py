"""The generated code is what the .proto files generate."""

import subprocess
import sys

from tests.support.studies import ROOT

FILES = ("control", "worker")


def test_the_generated_code_is_that_of_the_proto_files(tmp_path):
    made = subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "--proto_path=common/wire=common",
            f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}",
            *(f"common/wire/{name}.proto" for name in FILES),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert made.returncode == 0, made.stderr
    fresh = sorted((tmp_path / "common" / "wire").iterdir())
    assert [path.name for path in fresh] == sorted(
        path.name for path in (ROOT / "common" / "wire").glob("*_pb2*")
    )
    assert all(p.read_text() == (ROOT / "common/wire" / p.name).read_text() for p in fresh)
