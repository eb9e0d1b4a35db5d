"""What users do, as stories: real processes and HTTP; only the desktop is drawn and the model scripted."""

import httpx
import pytest

from tests.conftest import wait_until
from tests.e2e.conftest import System, read

CLICK = "script> click(point='<point>500 500</point>')"


def script(*lines: str) -> str:
    return "\n".join(f"script> {line}" for line in lines)


def in_order(events: list[dict[str, object]]) -> bool:
    return [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_submit_and_poll_until_the_text_stands_in_the_editor(system: System) -> None:
    result = system.done("Open notepad and type Hello World")
    assert (result["status"], result["error_code"]) == ("finished", None)
    assert "scripted" in result["finished_output"]
    assert result["steps"] == result["usage"]["model_calls"]
    assert result["usage"]["input_tokens"] > 0
    windows = system.desktop(result["sandbox_info"]["sandbox_id"])["windows"]
    assert [window["text"] for window in windows if window["kind"] == "notepad"] == ["Hello World"]


def test_run_streams_every_event_until_the_last(system: System) -> None:
    body = {"instruction": "Open calculator and compute 123 * 456"}
    with system.http.stream("POST", "/api/agent/run", json=body) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = list(read(stream))
    assert in_order(events)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["status", "status", "observation"]
    assert {"thinking", "action"} < set(kinds)
    assert kinds[-1] == "finished"
    assert [kind for kind in kinds if kind in ("finished", "error", "cancelled")] == ["finished"]
    assert "56088" in events[-1]["output"]
    assert events[0]["task_id"] == events[0]["taskId"]
    assert system.status(events[0]["task_id"])["finished_output"] == events[-1]["output"]


def test_a_stream_may_be_left_and_taken_up_again(system: System) -> None:
    body = {"instruction": script("repeat 8 click(point='<point>500 {i}</point>')")}
    with system.http.stream("POST", "/api/agent/run", json=body) as stream:
        first = [event for event, _ in zip(read(stream), range(5), strict=False)]
    rest = system.events(first[0]["task_id"], after=5)
    assert in_order(first + rest)
    assert rest[-1]["type"] == "finished"
    assert system.status(first[0]["task_id"])["status"] == "finished"


def test_a_finished_task_is_replayed_from_any_event(system: System) -> None:
    task_id = system.submit(CLICK)
    whole = system.events(task_id)
    assert in_order(whole)
    for seen in range(len(whole)):
        assert system.events(task_id, after=seen) == whole[seen:]
    answer = system.http.get(f"/api/agent/task/{task_id}/events?after={len(whole)}")
    assert answer.status_code == 204


def test_each_decision_is_carried_out_once_and_in_order(system: System) -> None:
    result = system.done(
        script(
            "repeat 5 click(point='<point>{i} 7</point>')",
            "type(content='finished(content=\\'no\\')')",
            "hotkey(key='ctrl a')",
            "scroll(point='<point>500 500</point>', direction='down')",
            "finished(content='it\\'s done')",
        )
    )
    assert (result["status"], result["finished_output"]) == ("finished", "it's done")
    done = system.executed(result["sandbox_info"]["sandbox_id"])
    assert [action["x"]["numerator"] for action in done[:5]] == [1, 2, 3, 4, 5]
    assert done[5]["content"] == "finished(content='no')"
    assert [action["type"] for action in done[6:]] == ["keyboard:hotkey", "mouse:scroll"]


def test_cancel_while_the_model_hangs(system: System) -> None:
    task_id = system.submit(script("click(point='<point>5 5</point>')", "hang 60", "wait()"))
    wait_until(lambda: system.status(task_id)["steps"] == 1)
    answer = system.http.post("/api/agent/cancel", json={"task_id": task_id}).json()
    assert (answer["status"], answer["already_cancelled"]) == ("cancelled", False)
    assert system.http.post("/api/agent/cancel", json={"task_id": task_id}).json()["already_cancelled"]
    assert system.events(task_id)[-1]["type"] == "cancelled"
    assert len(system.executed(system.status(task_id)["sandbox_info"]["sandbox_id"])) == 1


def test_a_model_that_fails_for_a_while_is_asked_again(system: System) -> None:
    result = system.done(
        script("status 500 2", "wait(t=0.1)", "status 429", "retry-after 0.1", "wait(t=0.1)")
    )
    assert result["status"] == "finished"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["status 500 99", "wait()"], "model_error"),
        (["status 400 99", "wait()"], "model_error"),
        (["raw I would rather not."], "model_output_invalid"),
        (["raw Action: click(point='<point>5000 5</point>')"], "model_output_invalid"),
        (["failed(content='no such app')"], "agent_failed"),
        (["repeat 9 wait(t=0.1)"], "max_steps"),
    ],
)
def test_a_failure_is_never_reported_as_finished(system: System, lines: list[str], code: str) -> None:
    task_id = system.submit(script(*lines), max_steps=5)
    result = system.wait(task_id)
    assert (result["status"], result["error_code"]) == ("error", code)
    assert result["error_message"]
    assert result["finished_output"] is None
    last = system.events(task_id)[-1]
    assert (last["type"], last["error_code"], last["stage"]) == ("error", code, "Error")


def test_a_task_s_time_ends_even_while_the_model_hangs(system: System) -> None:
    result = system.done(script("hang 60", "wait()"), timeout_seconds=1)
    assert (result["status"], result["error_code"]) == ("error", "timeout")


@pytest.mark.parametrize(
    "credentials",
    [
        {"authentication": {"api_key": "sk-planted-wrong", "org_id": "org"}},
        {"ark_apikey": "ark-planted-wrong"},
    ],
)
def test_a_refused_key(system: System, credentials: dict[str, object]) -> None:
    task_id = system.submit(CLICK, **credentials)
    result = system.wait(task_id)
    assert (result["status"], result["error_code"]) == ("error", "credentials_rejected")
    logs = "".join(path.read_text() for path in system.stack.logs.iterdir())
    told = system.http.get(f"/api/agent/task/{task_id}/events", headers={"Accept": "application/json"}).text
    assert "planted" not in f"{result}{told}{logs}"


def test_a_sandbox_that_does_not_exist(system: System) -> None:
    result = system.done(CLICK, sandbox_id="../../secrets")
    assert (result["status"], result["error_code"]) == ("error", "sandbox_lost")


def test_a_sandbox_that_is_lost_on_the_way(system: System) -> None:
    sandbox_id = system.http.post("/api/sandbox/create", json={}).json()["sandbox_id"]
    task_id = system.submit(script("wait(t=0.1)", "delay 1", "wait(t=0.1)"), sandbox_id=sandbox_id)
    wait_until(lambda: system.status(task_id)["steps"] == 1)
    httpx.delete(f"{system.stack.sandbox}/simulated/sandboxes/{sandbox_id}").raise_for_status()
    result = system.wait(task_id)
    assert (result["status"], result["error_code"]) == ("error", "sandbox_lost")


def test_an_action_whose_answer_is_lost_is_not_sent_again(system: System) -> None:
    sandbox_id = system.http.post("/api/sandbox/create", json={}).json()["sandbox_id"]
    fault = {"on": "execute", "sandbox_id": sandbox_id, "when": "after", "drop": True}
    httpx.post(f"{system.stack.sandbox}/simulated/faults", json=fault).raise_for_status()
    lines = ("click(point='<point>1 1</point>')", "click(point='<point>2 2</point>')")
    result = system.done(script(*lines), sandbox_id=sandbox_id)
    assert result["status"] == "finished"
    assert [action["x"]["numerator"] for action in system.executed(sandbox_id)] == [1, 2]
    told = [message["content"] for message in result["llm_context"]["messages"]]
    assert any("may or may not have happened" in text for text in told)


def test_calling_a_human_pauses_the_task(system: System) -> None:
    body = {"instruction": script("call_user(content='please log in')")}
    with system.http.stream("POST", "/api/agent/run", json=body) as stream:
        events = list(read(stream))
    assert (events[-1]["type"], events[-1]["needs_human"]) == ("human_intervention", True)
    task_id = events[0]["task_id"]
    assert system.status(task_id)["status"] == "human_intervention"
    assert system.http.post("/api/agent/cancel", json={"task_id": task_id}).json()["status"] == "cancelled"


def test_output_on_the_way(system: System) -> None:
    task_id = system.submit(script("output(content='the price is 7')", "finished(content='ok')"))
    assert system.wait(task_id)["finished_output"] == "ok"
    results = [event for event in system.events(task_id) if event["type"] == "result"]
    assert [event["content"] for event in results] == ["the price is 7"]


def test_a_sandbox_of_one_s_own_and_a_follow_up_in_it(system: System) -> None:
    made = system.http.post("/api/sandbox/create", json={"name": "mine", "maxLifeSeconds": 600}).json()
    assert made["success"] is True
    assert made["os"] == "Linux"
    assert {"shape", "virtualization", "architecture", "hardware_accelerated_encoding"} < set(made)
    first = system.done("Open notepad and type one", sandbox_id=made["sandbox_id"])
    second = system.done(script("finished(content='seen')"), continue_context=True, task_id=first["task_id"])
    assert second["status"] == "finished"
    assert second["sandbox_info"]["sandbox_id"] == made["sandbox_id"]
    assert second["parent_task_id"] == first["task_id"]
    texts = [message["content"] for message in second["llm_context"]["messages"]]
    assert "Open notepad and type one" in texts
    assert system.status(first["task_id"])["finished_output"] == first["finished_output"]


def test_a_refused_sandbox_passes_lybic_s_code_on(system: System) -> None:
    answer = system.http.post("/api/sandbox/create", json={"shape": "no-such-shape"})
    assert answer.status_code == 502
    assert answer.json()["error"]["details"]["sandbox_code"]


def test_ready_and_health(system: System) -> None:
    assert system.http.get("/api/health").json() == {"status": "ok"}
    ready = system.http.get("/api/ready")
    assert ready.status_code == 200
    assert all(check["ok"] for check in ready.json()["checks"].values())


def test_many_tasks_at_once(system: System) -> None:
    tasks = [system.submit(script("repeat 3 wait(t=0.1)")) for _ in range(12)]
    assert {system.wait(task)["status"] for task in tasks} == {"finished"}


AUTHENTICATION = {"api_key": "sk-your-key", "org_id": "your-org-id"}


def test_the_manual_s_first_examples(system: System) -> None:
    credentials = {"authentication": AUTHENTICATION, "ark_apikey": "your-ark-key"}
    run = {"instruction": "Open notepad and type Hello World", "sandbox_id": "box-123", **credentials}
    with system.http.stream("POST", "/api/agent/run", json=run) as stream:
        assert list(read(stream))[-1]["type"] == "finished"
    searched = system.done("Search for Python tutorials on Google", sandbox_id="box-123", **credentials)
    assert searched["status"] == "finished"
    assert searched["sandbox_info"]["sandbox_id"] == "box-123"
    made = system.http.post(
        "/api/sandbox/create",
        json={
            "name": "my-sandbox",
            "shape": "beijing-2c-4g-cpu",
            "maxLifeSeconds": 3600,
            "authentication": AUTHENTICATION,
        },
    )
    assert made.json()["sandbox_id"]
