"""The page as a file, and the server: no browser is needed here."""

import base64
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.commands import run_python
from tests.view.logs import ROWS, unpack, write

import vapo.view.page
from vapo.view.page import FOLDER, SCRIPTS, index, write_page
from vapo.view.server import server
from vapo.view.steps import Log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(write(write(tmp_path / "run", ROWS, 1), ROWS[:3], 4))


def embedded(page: str, run: int, step: int) -> bytes:
    found = re.search(f'id="step-{run}-{step}">([A-Za-z0-9+/=]+)</script>', page)
    assert found is not None
    return base64.b64decode(found[1])


def test_the_page_holds_every_step_and_names_nothing_outside(log: Log, tmp_path: Path) -> None:
    page = write_page([log], tmp_path / "page.html").read_text()
    assert unpack(embedded(page, 0, 1))[0] == unpack(log.pack(1))[0] and embedded(page, 0, 4) == log.pack(4)
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\w|@import|https?://""", page)
    assert "7-3=4" not in page  # texts are in the packed steps alone


def test_only_the_pages_own_script_may_run(log: Log, tmp_path: Path) -> None:
    page = write_page([log], tmp_path / "page.html").read_text()
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and {"default-src 'none'", f"script-src 'sha256-{digest}'"} <= set(
        map(str.strip, policy[1].split(";"))
    )
    sinks = re.compile(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextual|\beval\b|new Function")
    assert sinks.search("".join((FOLDER / name).read_text() for name in SCRIPTS)) is None


def test_a_runs_name_cannot_leave_its_element(tmp_path: Path) -> None:
    name = "a@script@<!--<script>"
    page = write_page([Log(write(tmp_path / name, ROWS))], tmp_path / "page.html").read_text()
    start = page.index('id="index">') + len('id="index">')
    listed = json.loads(page[start : page.index("</script>", start)])
    assert listed["runs"][0]["name"] == name and "<!--<script>" not in page


def test_steps_can_be_chosen_and_unknown_ones_are_named(log: Log, tmp_path: Path) -> None:
    assert 'id="step-0-1"' not in write_page([log], tmp_path / "page.html", [4]).read_text()
    with pytest.raises(ValueError, match=r"no rollouts of step 2 in .*: set --steps to some of 1, 4"):
        write_page([log], tmp_path / "page.html", [2, 4])


def test_a_page_that_would_be_too_large_says_what_else_there_is(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vapo.view.page, "MOST_BYTES", len(base64.b64encode(log.pack(1))) + 10)
    write_page([log], tmp_path / "page.html", [1])
    with pytest.raises(ValueError, match="at step 4 of run: choose some with --steps, or read them on demand with --serve"):
        write_page([log], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_files_of_the_page_are_short() -> None:
    lines = {path.name: path.read_text().splitlines() for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html")}
    assert {*SCRIPTS, "page.css", "page.html"} == lines.keys()
    assert max(map(len, lines.values())) <= 300
    assert [line for text in lines.values() for line in text if len(line) > 132] == []


# --- server ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def port(log: Log) -> Iterator[int]:
    with server([log], 0) as served:
        assert served.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served.server_port
        served.shutdown()
        thread.join()


def ask(port: int, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, body


def test_the_server_sends_page_steps_and_what_is_new(log: Log, port: int) -> None:
    status, page = ask(port, "/")
    assert status == 200 and b'"live": true' in page and b'id="step-0-1"' not in page
    assert unpack(ask(port, "/step/0/1")[1])[0] == unpack(log.pack(1))[0]
    write(log.path, ROWS, 5)
    assert json.loads(ask(port, "/index")[1]) == index([log], True) and [*log.files()][2:] == [5]
    assert [ask(port, path)[0] for path in ("/step/0/9", "/step/7/1", "/step/0/x", "/other", "/../secret")] == [404] * 5


def test_the_server_answers_only_to_a_loopback_name(port: int) -> None:
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert ask(port, "/index", name)[0] == 200, name
    for name in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example", "localhost@evil.example", "[bad"):
        status, body = ask(port, "/index", name)
        assert status in (403, 404) and b"runs" not in body, name


# --- command ---------------------------------------------------------------------------------------------------------------


def view(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_python("src/view.py", *map(str, arguments), cwd=ROOT)


def test_the_command_writes_into_the_runs_folder_or_where_it_is_told(log: Log, tmp_path: Path) -> None:
    done = view(log.path)
    assert done.returncode == 0 and done.stdout.strip() == str(log.path / "view.html") and (log.path / "view.html").is_file()
    other = write(tmp_path / "other", ROWS, 4)
    done = view(log.path / "rollouts" / "step_000004.parquet", "--compare", other, "--out", tmp_path / "new" / "two.html")
    assert done.returncode == 0 and 'id="step-1-4"' in (tmp_path / "new" / "two.html").read_text()


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    for arguments in ([tmp_path], [tmp_path, "--serve"]):
        done = view(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("error: no rollouts in") and done.stderr.count("\n") == 1


def test_a_port_that_cannot_be_had_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    log = Log(write(tmp_path / "mine", ROWS))
    with server([log], 0) as taken:
        for port in (taken.server_port, 70000):
            with pytest.raises(ValueError, match=f"port {port} cannot be had .*set --port"):
                server([log], port)
