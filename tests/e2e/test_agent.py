"""The agent's own ways, as stories: its sandboxes come and go, it remembers, notices loops, asks for help."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
import psycopg
import pytest

from local.model.screen import Screen
from local.sandbox import layout
from tests.conftest import wait_until
from tests.e2e.conftest import System, started
from tests.e2e.test_tasks import script

T = TypeVar("T")
CLICK = "click(point='<point>5 5</point>')"
CALL = "call_user(content='please log in')"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """One of its own: nothing lingers long, the screen settles, and leases are over soon."""
    with started(
        SANDBOX_LINGER_SECONDS="1",
        CLEAN_SECONDS="0.2",
        AGENT_SETTLE_SECONDS="0.4",
        LEASE_SECONDS="2",
        SWEEP_SECONDS="0.3",
    ) as one:
        yield one


@pytest.fixture(autouse=True)
def _no_faults(system: System) -> None:
    httpx.delete(f"{system.stack.sandbox}/simulated/faults").raise_for_status()


def fault(system: System, **fault: Any) -> None:
    httpx.post(f"{system.stack.sandbox}/simulated/faults", json=fault).raise_for_status()


def box(result: dict[str, Any]) -> str:
    return str(result["sandbox_info"]["sandbox_id"])


def gone(system: System, sandbox_id: str) -> bool:
    return bool(system.desktop(sandbox_id)["gone"])


def boxes_of(system: System, task_id: str) -> list[str]:
    """All sandboxes that were ever made for the task."""
    ids = httpx.get(f"{system.stack.sandbox}/simulated/sandboxes").json()["sandboxes"]
    return [one for one in ids if system.desktop(one)["name"] == f"task-{task_id}"]


def texts(result: dict[str, Any]) -> list[str]:
    return [message["content"] for message in result["llm_context"]["messages"]]


def rows(system: System, query: str, *values: object) -> list[tuple[Any, ...]]:
    url = system.stack._environment["POSTGRES_CONNECTION_STRING"]
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


def kill_worker(system: System) -> None:
    system.stack._workers[0].child.kill()


def tended(system: System, condition: Callable[[], T | None]) -> T:
    """Waits for the condition, while whatever died is started again: other tests need it as well."""

    def look() -> T | None:
        system.stack.tend()
        alive = all(worker.child.exit_code is None for worker in system.stack._workers)
        return condition() if alive else None

    found = wait_until(look, seconds=40)
    assert found is not None
    return found


# --- sandboxes ------------------------------------------------------------------------------------------


def test_a_task_s_sandbox_goes_soon_after_it(system: System) -> None:
    result = system.done(script("finished(content='ok')"))
    wait_until(lambda: gone(system, box(result)))
    assert boxes_of(system, result["task_id"]) == [box(result)]
    wait_until(lambda: not rows(system, "SELECT 1 FROM sandboxes WHERE job_id = %s", result["task_id"]))


def test_a_follow_up_works_in_it_for_longer_than_it_would_have_lingered(system: System) -> None:
    first = system.done(script("finished(content='ok')"))
    second = system.submit(
        script("delay 1.5", CLICK, "finished(content='ok')"), continue_context=True, task_id=first["task_id"]
    )
    result = system.wait(second)
    assert (result["status"], box(result)) == ("finished", box(first))
    assert len(system.executed(box(first))) == 1
    assert not gone(system, box(first))
    wait_until(lambda: gone(system, box(first)))


def test_a_kept_sandbox_stays_though_later_ones_go(system: System) -> None:
    kept = system.done(script("finished(content='ok')"), keep_sandbox=True)
    mine = system.http.post("/api/sandbox/create", json={"maxLifeSeconds": 600}).json()["sandbox_id"]
    system.done(script("finished(content='ok')"), sandbox_id=mine)
    later = system.done(script("finished(content='ok')"))
    wait_until(lambda: gone(system, box(later)))
    assert not gone(system, box(kept))
    assert not gone(system, mine)


def test_a_worker_that_dies_right_after_it_made_a_sandbox_leaves_no_second_one(system: System) -> None:
    fault(system, on="create", when="after", delay=30)
    task_id = system.submit(script("finished(content='ok')"))
    (made,) = wait_until(lambda: boxes_of(system, task_id))
    kill_worker(system)
    result = tended(system, lambda: found if (found := system.status(task_id))["finished_output"] else None)
    assert (result["status"], box(result)) == ("finished", made)
    wait_until(lambda: gone(system, made))
    assert boxes_of(system, task_id) == [made]


def test_a_cancelled_creation_leaves_no_sandbox(system: System) -> None:
    fault(system, on="create", when="after", delay=30)
    task_id = system.submit(script("finished(content='ok')"))
    (made,) = wait_until(lambda: boxes_of(system, task_id))
    system.http.post("/api/agent/cancel", json={"task_id": task_id}).raise_for_status()
    assert system.wait(task_id)["status"] == "cancelled"
    wait_until(lambda: gone(system, made))


# --- notes and budgets ----------------------------------------------------------------------------------


def test_what_one_task_noted_a_later_one_is_told(system: System) -> None:
    note = "登录Wiki系统 asks for the code 4711"
    noted = system.done(script(f"save_memory(content='{note}')", "finished(content='ok')"))
    assert noted["status"] == "finished"
    told = system.done(f"Wiki系统\n{script(CLICK, 'finished()')}", use_memory=True)
    assert any(note in text for text in texts(told))
    untold = system.done(f"Wiki系统\n{script('finished()')}")
    assert not any(note in text for text in texts(untold))
    chosen = "SELECT notes FROM jobs WHERE id = %s"
    assert rows(system, chosen, told["task_id"]) == [([note],)]
    assert rows(system, chosen, untold["task_id"]) == [(None,)]


@pytest.mark.parametrize("budget", [{"max_model_calls": 2}, {"max_tokens": 3000}])
def test_a_budget_ends_a_task(budget: dict[str, int], system: System) -> None:
    result = system.done(script("repeat 9 output(content='{i}')"), **budget)
    assert (result["status"], result["error_code"]) == ("error", "budget_exceeded")
    used = result["usage"]
    assert used["model_calls"] == result["steps"] < 9
    if "max_tokens" in budget:
        assert used["input_tokens"] + used["output_tokens"] >= 3000
    else:
        assert used["model_calls"] == 2


# --- the screen -----------------------------------------------------------------------------------------


def test_the_same_to_no_effect_ends_as_a_loop(system: System) -> None:
    result = system.done(script(f"repeat 20 {CLICK}"))
    assert (result["status"], result["error_code"]) == ("error", "loop_detected")
    assert len(system.executed(box(result))) == 6
    assert sum("the screen does not change" in text for text in texts(result)) == 4


def test_the_same_that_changes_the_screen_is_no_loop(system: System) -> None:
    x, y = layout.taskbar_entry((1280, 720), "notepad").centre
    lines = (
        f"click(point='<point>{x * 1000 // 1280} {y * 1000 // 720}</point>')",
        "repeat 8 type(content='7')",
    )
    result = system.done(script(*lines, "finished(content='ok')"))
    assert result["status"] == "finished"
    (window,) = system.desktop(box(result))["windows"]
    assert window["text"] == "7" * 8
    assert not any("does not change" in text for text in texts(result))


def test_a_window_is_seen_when_it_has_opened(system: System) -> None:
    x, y = layout.taskbar_entry((1280, 720), "notepad").centre
    opening = f"click(point='<point>{x * 1000 // 1280} {y * 1000 // 720}</point>')"
    task_id = system.submit(script(opening, "finished(content='ok')"))
    seen = [event["screenshot"] for event in system.events(task_id) if event["type"] == "observation"]
    pictures = [Screen(f"{system.stack.plan.url}{url}") for url in seen]
    assert [picture.shows(layout.PAPER) for picture in pictures] == [False, True]


# --- humans ---------------------------------------------------------------------------------------------


def resume(system: System, task_id: str, message: str) -> None:
    answer = system.http.post(f"/api/agent/task/{task_id}/resume", json={"message": message})
    assert answer.status_code == 200, answer.text


def called(system: System, *lines: str, **more: Any) -> dict[str, Any]:
    """A task that waits for a human after a click."""
    task_id = system.submit(script("click(point='<point>1 7</point>')", CALL, *lines), **more)
    return system.wait(task_id, "human_intervention")


THEN = ("click(point='<point>2 7</point>')", "finished(content='ok')")


def test_a_human_helps_and_the_task_goes_on_where_it_was(system: System) -> None:
    waiting = called(system, *THEN)
    resume(system, waiting["task_id"], "the password is typed in")
    result = system.wait(waiting["task_id"])
    assert (result["status"], box(result)) == ("finished", box(waiting))
    assert [action["x"]["numerator"] for action in system.executed(box(result))] == [1, 2]
    assert "the password is typed in" in texts(result)
    kinds = [event["type"] for event in system.events(waiting["task_id"])]
    assert kinds.count("human_intervention") == 1
    wait_until(lambda: gone(system, box(result)))


def test_the_worker_may_die_while_a_human_helps_and_the_pause_does_not_count(system: System) -> None:
    waiting = called(system, *THEN, timeout_seconds=30)
    task_id = waiting["task_id"]
    kill_worker(system)
    # An hour passes.
    hours = "started_at = started_at - interval '1 h', updated_at = updated_at - interval '1 h'"
    rows(system, f"UPDATE jobs SET {hours} WHERE id = %s", task_id)
    resume(system, task_id, "done")
    result = tended(system, lambda: found if (found := system.status(task_id))["finished_output"] else None)
    assert (result["status"], box(result)) == ("finished", box(waiting))
    assert [action["x"]["numerator"] for action in system.executed(box(result))] == [1, 2]


FAR, NEAR = {"type": "px", "value": 999}, {"type": "px", "value": 7}
TYPE = {"type": "keyboard:type", "content": "by hand"}


def take_over(system: System, task_id: str) -> dict[str, Any]:
    answer = system.http.post(f"/api/agent/task/{task_id}/takeover")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def told(system: System, task_id: str) -> list[dict[str, Any]]:
    """The task's events so far."""
    page = system.http.get(f"/api/agent/task/{task_id}/events", headers={"Accept": "application/json"})
    return list(page.json()["events"])


def clicked(system: System, sandbox_id: str) -> list[int]:
    """Where, from left to right."""
    places = [one["x"] for one in system.executed(sandbox_id) if "x" in one]
    return [place.get("numerator") or place["value"] for place in places]


def test_a_human_takes_over_and_gives_it_back(system: System) -> None:
    mine = system.http.post("/api/sandbox/create", json={"maxLifeSeconds": 1800}).json()["sandbox_id"]
    task_id = system.submit(
        script("repeat 8 click(point='<point>{i} 7</point>')", "finished(content='ok')"), sandbox_id=mine
    )
    wait_until(lambda: clicked(system, mine))
    assert take_over(system, task_id)["status"] == "human_intervention"
    before = clicked(system, mine)
    assert before == list(range(1, len(before) + 1))
    assert len(before) < 8
    assert told(system, task_id)[-1]["taken_over"] is True
    left = datetime.fromisoformat(system.desktop(mine)["expiresAt"]) - datetime.now(UTC)
    assert left > timedelta(seconds=1800), "the human has its whole life to act in"
    click = {"type": "mouse:doubleClick", "x": FAR, "y": NEAR, "button": 1}
    answer = system.http.post(f"/api/agent/task/{task_id}/actions", json={"actions": [click, TYPE]}).json()
    assert (answer["success"], answer["done"]) == (True, 2)
    assert [one["type"] for one in system.executed(mine)[-2:]] == [click["type"], TYPE["type"]]
    assert clicked(system, mine) == [*before, FAR["value"]]
    resume(system, task_id, "the blue one is right")
    result = system.wait(task_id)
    assert (result["status"], result["steps"]) == ("finished", 9)
    assert any(text.endswith("the blue one is right") for text in texts(result))
    done = clicked(system, mine)
    assert done.pop(len(before)) == FAR["value"]
    assert done == sorted(set(done))
    open_step = set(range(1, 9)) - set(done)  # decided, and left to the human
    steps = system.http.get(f"/api/agent/task/{task_id}/steps").json()["steps"]
    assert open_step == {step["number"] for step in steps if step["status"] == "interrupted"}


def test_a_human_who_takes_over_shortens_no_life(system: System) -> None:
    mine = system.http.post("/api/sandbox/create", json={"maxLifeSeconds": 80_000}).json()["sandbox_id"]
    task_id = system.submit(script("hang 60", "wait()"), sandbox_id=mine)
    wait_until(lambda: system.status(task_id)["sandbox_info"])
    assert take_over(system, task_id)["status"] == "human_intervention"
    left = datetime.fromisoformat(system.desktop(mine)["expiresAt"]) - datetime.now(UTC)
    assert left > timedelta(seconds=70_000)
    system.http.post("/api/agent/cancel", json={"task_id": task_id})


def test_a_human_takes_over_before_the_first_step(system: System) -> None:
    fault(system, on="preview", when="before", delay=60)
    task_id = system.submit(script(CLICK, "finished(content='ok')"))
    wait_until(lambda: system.status(task_id)["sandbox_info"])
    assert take_over(system, task_id)["status"] == "human_intervention"
    resume(system, task_id, "begin on the left")
    result = system.wait(task_id)
    assert (result["status"], result["steps"]) == ("finished", 2)
    assert texts(result)[2].endswith("begin on the left")


def test_a_worker_goes_down_while_a_human_takes_over(system: System) -> None:
    task_id = system.submit(script(CLICK, "hang 60", "wait()"))
    wait_until(lambda: system.status(task_id)["steps"])
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(take_over, system, task_id)
        wanted = "SELECT 1 FROM jobs WHERE id = %s AND takeover_requested_at IS NOT NULL"
        wait_until(lambda: rows(system, wanted, task_id))
        system.stack._workers[0].child.stop()
        assert asked.result()["status"] in {"human_intervention", "pending"}
    tended(system, lambda: system.status(task_id)["status"] == "human_intervention")
    kinds = [event["type"] for event in told(system, task_id)]
    assert kinds.count("human_intervention") == 1
    answer = system.http.post("/api/agent/cancel", json={"task_id": task_id}).json()
    assert answer["status"] == "cancelled"
    assert len(system.executed(box(system.status(task_id)))) == 1


def test_nobody_helps(system: System) -> None:
    waiting = called(system)
    assert not gone(system, box(waiting))
    answer = system.http.post("/api/agent/cancel", json={"task_id": waiting["task_id"]}).json()
    assert answer["status"] == "cancelled"
    wait_until(lambda: gone(system, box(waiting)))
    again = system.http.post(f"/api/agent/task/{waiting['task_id']}/resume", json={})
    assert again.status_code == 409
