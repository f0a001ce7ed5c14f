import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_command_refuses_to_start_on_somebody_elses_common(tmp_path):
    """A foreign package first on the path is named, with exit code 3."""
    foreign = tmp_path / "client"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from deploy.cli.main import run; "
    code += f"sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['fedseg', 'methods']; run()"

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
        check=False, env=os.environ)  # fmt: skip

    assert done.returncode == 3
    assert "package client comes from" in done.stderr
