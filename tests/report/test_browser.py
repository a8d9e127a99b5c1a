"""The page in a real browser, without a network: no error in its console, and no wider than a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastuda.cli.report import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FRAME = """<!DOCTYPE html><html><body><iframe id="page" src="{page}" width="{width}" height="800"></iframe><script>
document.getElementById("page").onload = event => {{
  const page = event.target.contentDocument;
  const loaded = [...page.images].every(image => image.complete && image.naturalWidth > 0);
  document.title = ["width", page.documentElement.scrollWidth, "images", page.images.length, loaded].join(" ");
}};
</script></body></html>"""


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Open a page headless and offline, in a profile of its own."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=5000", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_an_error_and_fits_its_screen(real_run, tmp_path, width):
    run = tmp_path / "run"
    shutil.copytree(real_run, run)
    main([str(run)])
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=(run / "report.html").as_uri(), width=width))
    done = browse(frame, tmp_path / "profile", "--dump-dom")
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr[-2000:]
    found = re.search(r"<title>width (\d+) images (\d+) (\w+)</title>", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-2000:]
    assert int(found[1]) <= width and int(found[2]) == 24 and found[3] == "true"
