"""`lybic-guiagent parse`: whatever comes in, one line of JSON comes out."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.cli import make_app
from shared import schemas
from worker import parse as command
from worker import uitars

COMMAND = [str(Path(sys.executable).with_name("lybic-guiagent")), "parse"]
CLICK = "Thought: see\nAction: click(point='<point>500 300</point>')"
CLICKED = {
    "thought": "see",
    "actions": [
        {
            "type": "mouse:click",
            "x": {"type": "/", "numerator": 500, "denominator": 1000},
            "y": {"type": "/", "numerator": 300, "denominator": 1000},
            "button": 1,
        }
    ],
    "control": None,
    "error": None,
}


def run(*options: str, stdin: bytes) -> list[dict[str, Any]]:
    """What the command prints, run in this process."""
    result = CliRunner().invoke(make_app(), ["parse", *options], input=stdin)
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes.isascii()
    assert result.stdout_bytes[-1:] in (b"", b"\n")
    shown = [json.loads(line) for line in result.stdout_bytes.splitlines()]
    for one in shown:
        assert list(one) == ["thought", "actions", "control", "error"]
        if one["error"]:
            assert one["error"].keys() == {"code", "message"}
            assert (one["thought"], one["actions"], one["control"]) == ("", [], None)
        else:
            assert one["actions"] or one["control"]
    return shown


def refusal(one: dict[str, Any]) -> tuple[str, str]:
    return one["error"]["code"], one["error"]["message"]


def test_one_answer() -> None:
    assert run(stdin=CLICK.encode()) == [CLICKED]
    assert run(stdin=b"\xef\xbb\xbf" + CLICK.replace("\n", "\r\n").encode() + b"\r\n") == [CLICKED]


def test_the_options_count() -> None:
    options = ("--dialect", "ui-tars-1.5", "--vocabulary", "mobile", "--screen", "1080x1920")
    (shown,) = run(*options, stdin=b"Action: click(start_box='<|box_start|>(546,966)<|box_end|>')")
    (tap,) = shown["actions"]
    assert tap["type"] == "touch:tap"
    assert tap["x"] == {"type": "/", "numerator": 546, "denominator": 1092}


def test_a_control_is_shown() -> None:
    (shown,) = run(stdin="Thought: 好\nAction: finished(content='完成')".encode())
    assert (shown["thought"], shown["control"]) == ("好", {"name": "finished", "content": "完成"})


@pytest.mark.parametrize(
    ("stdin", "code", "hint"),
    [
        (b"", "model_output_invalid", "No action found"),
        (b"\xff\xfe\x00", "model_output_invalid", "No action found"),
        (b"Action: fly()", "model_output_invalid", "no action named 'fly'"),
        (b"Action: fl\xffy()", "model_output_invalid", ""),
        (b"x" * (command.MOST_BYTES + 1), "invalid_request", "longer than"),
    ],
)
def test_unusable_output_is_data(stdin: bytes, code: str, hint: str) -> None:
    (shown,) = run(stdin=stdin)
    assert shown["error"]["code"] == code
    assert hint in shown["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [
        ["--dialect", "gpt"],
        ["--vocabulary", "watch"],
        ["--screen", "wide"],
        ["--screen", "0x100"],
        ["--screen", "100x-1"],
        ["--screen", "1920x1080x3"],
        ["--screen", "1920x999999"],
        ["--screen", "１９２０x1080"],
        ["--dialect", "ui-tars-1.5"],
        ["--what"],
        ["file.txt"],
    ],
)
def test_bad_options_are_the_callers_fault(options: list[str]) -> None:
    result = CliRunner().invoke(make_app(), ["parse", *options], input=CLICK.encode())
    assert result.exit_code == 2
    assert not result.stdout


def test_many_answers() -> None:
    lines = [
        {"text": CLICK},
        {"text": CLICK, "dialect": None, "vocabulary": "computer", "screen": [1, 1], "id": 7},
        {"text": "click(start_box='(1,2)')", "dialect": "ui-tars-1.5", "screen": [1920, 1080]},
        {"text": "press_home()", "vocabulary": "mobile"},
        {"text": "nothing"},
    ]
    shown = run("--jsonl", stdin="\n".join(map(json.dumps, lines)).encode())
    assert shown[:2] == [CLICKED, CLICKED]
    assert shown[2]["actions"][0]["x"]["denominator"] == 1932
    assert shown[3]["actions"] == [{"type": "android:home"}]
    assert shown[4]["error"]["code"] == "model_output_invalid"
    assert run("--jsonl", stdin=b"") == []


def test_what_a_line_leaves_out_comes_from_the_options() -> None:
    options = ("--dialect", "ui-tars-1.5", "--screen", "1288x728", "--vocabulary", "mobile")
    lines = [{"text": "click(start_box='(1,2)')"}, {"text": "tap(point='1 2')", "dialect": "doubao"}]
    first, second = run(*options, "--jsonl", stdin="\n".join(map(json.dumps, lines)).encode())
    assert first["actions"][0]["x"]["denominator"] == 1288
    assert second["actions"][0]["x"]["denominator"] == 1000


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b"", "not JSON"),
        (b"  \r", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"\x00\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"wait()"', "not a JSON object"),
        (b"{}", "text must be a string"),
        (b'{"text": 1}', "text must be a string"),
        (b'{"text": "wait()", "dialect": "gpt\\ud83d"}', "dialect must be one of: doubao, ui-tars-1.5"),
        (b'{"text": "wait()", "dialect": ["doubao"]}', "dialect must be one of"),
        (b'{"text": "wait()", "vocabulary": {}}', "vocabulary must be one of: computer, mobile"),
        (b'{"text": "wait()", "dialect": "ui-tars-1.5"}', "screen must be"),
        (b'{"text": "wait()", "screen": [0, 5]}', "screen must be"),
        (b'{"text": "wait()", "screen": [true, 5]}', "screen must be"),
        (b'{"text": "wait()", "screen": [1.5, 5]}', "screen must be"),
        (b'{"text": "wait()", "screen": [NaN, 5]}', "screen must be"),
        (b'{"text": "wait()", "screen": [5]}', "screen must be"),
        (b'{"text": "wait()", "screen": [5, 1000000]}', "screen must be"),
        (b'{"text": "wait()", "screen": "5x5"}', "screen must be"),
        (b'{"text": "' + b"x" * command.MOST_BYTES + b'"}', "longer than"),
        (b"x" * (3 * command.MOST_BYTES), "longer than"),
    ],
)
def test_a_bad_line_does_not_stop_the_rest(line: bytes, hint: str) -> None:
    good = json.dumps({"text": CLICK}).encode()
    first, bad, last = run("--jsonl", stdin=b"\n".join([good, line, good]))
    assert (first, last) == (CLICKED, CLICKED)
    code, message = refusal(bad)
    assert code == "invalid_request"
    assert hint in message


@given(st.binary() | st.text(st.characters()).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_one_line(data: bytes) -> None:
    assert len(run(stdin=data)) == 1
    assert len(run("--jsonl", stdin=data.replace(b"\n", b"") + b"\n")) == 1


@given(st.text(st.characters()), st.sampled_from(uitars.DIALECTS), st.sampled_from(uitars.VOCABULARIES))
def test_any_text_gives_one_line(text: str, dialect: str, vocabulary: str) -> None:
    line = {"text": f"Action: {text}", "dialect": dialect, "vocabulary": vocabulary, "screen": [1920, 1080]}
    assert len(run("--jsonl", stdin=json.dumps(line).encode())) == 1
    raw = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert len(run("--jsonl", stdin=raw)) == 1


@pytest.mark.parametrize(
    "unit", [b"a", b"\0", b"'\"", b"\xff", "动作：".encode(), b"wait()\n", b"\xed\xa0\x80"]
)
def test_long_input_gives_one_line(unit: bytes) -> None:
    assert len(run(stdin=b"Action: " + unit * (100_000 // len(unit)))) == 1


def test_the_names_are_those_of_the_service() -> None:
    assert get_args(schemas.Dialect) == uitars.DIALECTS
    assert get_args(schemas.Vocabulary) == uitars.VOCABULARIES


# As a process


def test_each_line_is_answered_at_once() -> None:
    line = json.dumps({"text": CLICK}).encode() + b"\n"
    with subprocess.Popen([*COMMAND, "--jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(3):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == CLICKED
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_a_reader_that_leaves_is_no_crash() -> None:
    line = json.dumps({"text": CLICK}).encode() + b"\n"
    with subprocess.Popen(
        [*COMMAND, "--jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(line)
        process.stdin.close()
        assert b"Traceback" not in process.stderr.read()


def test_it_starts_fast_and_imports_little() -> None:
    script = (
        "import sys; from client.cli import make_app; sys.argv[1:] = ['parse']; "
        "make_app()(standalone_mode=False); "
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=b"wait()", capture_output=True, check=True)
    heavy = {"alembic", "celery", "flask", "httpx", "lybic", "openai", "pydantic_settings", "sqlalchemy"}
    imported = {name.strip("[]' \n") for name in done.stderr.decode().split(",")}
    assert "worker" in imported
    assert not heavy & imported
    began = time.monotonic()
    subprocess.run(COMMAND, input=b"wait()", capture_output=True, check=True)
    assert time.monotonic() - began < 5  # it takes 0.2 s where nothing else runs
