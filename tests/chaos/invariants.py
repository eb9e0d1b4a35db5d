"""What must always hold, whatever died: one checker for all scenarios.

It believes nobody alone. The rows say what was decided and told, the simulated sandboxes' own record says
what was really done, the clients say what they really received, a watcher says what the statuses were on the
way. Violations are collected and reported together.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
from psycopg.rows import dict_row
from redis import Redis

Row = dict[str, Any]
Harm = Literal["lost", "duplicated", "reordered", "other"]

TERMINAL = {"finished": "finished", "error": "error", "cancelled": "cancelled"}
"""Each terminal status, and the type of the event that tells it."""
TOLD = {*TERMINAL.values(), "human_intervention"}
"""The types of the events that a receiver is told of."""
CLOCK_SLACK = timedelta(seconds=0.1)
"""An event's time is when its transaction began, and the witness counts whole milliseconds."""
LANE = re.compile(r"script> repeat (\d+) click\(point='<point>\{i\} (\d+)</point>'\)")


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be: which rule, which harm, what exactly."""

    rule: str
    harm: Harm
    text: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.text}"


@dataclass(frozen=True, slots=True)
class Heard:
    """What one client received of one job, over all its connections: numbers and types, as they came."""

    job_id: str | None
    events: Sequence[tuple[int, str]]
    connections: int


@dataclass(frozen=True, slots=True)
class AnsweredCancel:
    """A cancellation that the API answered: with which status, and when the answer was there."""

    job_id: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Takeover:
    """A time in which a job was a human's: from the API's answer to the request to let it go on."""

    job_id: str
    since: datetime
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Where the checker looks, and what the clients noted."""

    database: str
    witness: str
    redis: str
    logs: Path
    secrets: Mapping[str, str]
    """What must never be readable, by a name that may be."""
    words: str
    """Stands in every instruction: Redis carries ids and no text."""
    accepted: Iterable[str]
    heard: Sequence[Heard] = ()
    cancels: Sequence[AnsweredCancel] = ()
    takeovers: Sequence[Takeover] = ()
    watched: Sequence[str] = ()
    """What a watcher saw that must not be."""
    overheard: Sequence[str] = ()
    """The names of the secrets that passed through Redis."""
    in_flight: float = 0.5
    """Seconds that an action may be under way to the sandbox."""
    older_sandboxes: frozenset[str] = frozenset()
    delivered: frozenset[str] = frozenset()
    """The ids of the webhooks that came to their receiver."""


@dataclass(frozen=True, slots=True)
class Act:
    """A click that a sandbox really carried out: the job's lane, the step's coordinate, when."""

    lane: int
    number: int
    at: datetime


@dataclass(frozen=True)
class Scene:
    """Everything as it is at the end, read once."""

    evidence: Evidence
    jobs: Mapping[str, Row]
    steps: Mapping[str, list[Row]]
    events: Mapping[str, list[Row]]
    deliveries: Mapping[str, list[Row]]
    acts: Mapping[str, list[Act]]
    """By sandbox, in the order of execution."""
    now: datetime
    rows: Mapping[str, list[str]] = field(repr=False)
    """Every row of every table as text."""

    @classmethod
    def read(cls, evidence: Evidence) -> "Scene":
        """From the database and from the witness."""
        with psycopg.connect(evidence.database, row_factory=dict_row) as connection:
            jobs = {
                str(row["id"]): row for row in connection.execute("SELECT * FROM jobs ORDER BY created_at")
            }
            steps = connection.execute("SELECT * FROM steps ORDER BY job_id, number").fetchall()
            events = connection.execute("SELECT * FROM events ORDER BY job_id, seq").fetchall()
            deliveries = connection.execute("SELECT * FROM deliveries ORDER BY job_id, seq").fetchall()
            now = connection.execute("SELECT clock_timestamp() AS now").fetchone()
            rows = _everything(connection)
        assert now is not None
        by_job = (_by_job(steps), _by_job(events), _by_job(deliveries))
        return cls(evidence, jobs, *by_job, _witnessed(evidence), now["now"], rows)

    @cached_property
    def lanes(self) -> dict[str, tuple[int, int]]:
        """How many steps each scripted job has, and its lane."""
        found = {job_id: LANE.search(job["instruction"]) for job_id, job in self.jobs.items()}
        return {job_id: (int(lane[1]), int(lane[2])) for job_id, lane in found.items() if lane}

    def acts_of(self, job_id: str) -> list[Act]:
        """What was really done for the job."""
        if job_id not in self.lanes:
            return []
        _, lane = self.lanes[job_id]
        return [act for act in self.acts.get(self.jobs[job_id]["sandbox_id"], ()) if act.lane == lane]

    def claims(self, job_id: str) -> list[Row]:
        """The events that tell of a new run."""
        return [event for event in self.events[job_id] if _status(event) == "running"]

    def drives(self, job_id: str) -> Iterator[tuple[datetime, datetime]]:
        """From when to when the job had its sandbox."""
        since: datetime | None = None
        for event in self.events[job_id]:
            if _status(event) == "running":
                since = since or event["created_at"]
            elif since and (_status(event) == "pending" or event["type"] in TERMINAL.values()):
                yield since, event["created_at"]
                since = None
        if since:
            yield since, self.now


def _everything(connection: psycopg.Connection[Row]) -> dict[str, list[str]]:
    tables = connection.execute(
        "SELECT format('%I.%I', schemaname, relname) AS name FROM pg_stat_user_tables ORDER BY 1"
    ).fetchall()
    query = "SELECT t::text AS row FROM {} t"
    return {
        table["name"]: [row["row"] for row in connection.execute(query.format(table["name"]).encode())]
        for table in tables
    }


def _by_job(rows: Iterable[Row]) -> defaultdict[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[str(row["job_id"])].append(row)
    return grouped


def _witnessed(evidence: Evidence) -> dict[str, list[Act]]:
    with httpx.Client(base_url=evidence.witness, trust_env=False, timeout=30) as http:
        ids = set(http.get("/simulated/sandboxes").json()["sandboxes"]) - evidence.older_sandboxes
        return {one: _acts(http.get(f"/simulated/sandboxes/{one}/actions").json()) for one in sorted(ids)}


def _acts(answer: Row) -> list[Act]:
    return [
        Act(_length(one["action"]["y"]), _length(one["action"]["x"]), datetime.fromisoformat(one["time"]))
        for one in answer["actions"]
        if one["action"]["type"] == "mouse:click"
    ]


def _length(value: Row) -> int:
    return int(value["numerator"])


def _status(event: Row) -> str | None:
    return event["payload"]["status"] if event["type"] == "status" else None


def _clicks(step: Row) -> list[int]:
    return [_length(action["x"]) for action in step["actions"] if action["type"] == "mouse:click"]


# --- the rules ------------------------------------------------------------------------------------------

Found = Iterator[tuple[Harm, str]]


def every_job_ends(scene: Scene) -> Found:
    """No accepted job is lost, none is left behind without a live lease or a human that it waits for."""
    for job_id in scene.evidence.accepted:
        if job_id not in scene.jobs:
            yield "lost", f"{job_id} was accepted, and there is no such row"
    manned = {job["sandbox_key"] for job in scene.jobs.values() if job["status"] == "human_intervention"}
    for job_id, job in scene.jobs.items():
        held = job["status"] == "running" and job["lease_expires_at"] > scene.now
        waits = job["status"] == "human_intervention" or (
            job["status"] == "pending" and job["sandbox_key"] and job["sandbox_key"] in manned
        )
        if job["status"] not in TERMINAL and not held and not waits:
            yield "lost", f"{job_id} is left {job['status']}"


def one_terminal_event(scene: Scene) -> Found:
    """An ended job has exactly one terminal event, it is the last, and tells the job's status."""
    for job_id, job in scene.jobs.items():
        types = [event["type"] for event in scene.events[job_id]]
        terminal = [kind for kind in types if kind in TERMINAL.values()]
        expected = [TERMINAL[job["status"]]] if job["status"] in TERMINAL else []
        if terminal != expected or types[-1:] != (expected or types[-1:]):
            harm: Harm = "duplicated" if len(terminal) > len(expected) else "other"
            yield harm, f"{job_id} is {job['status']} and its events end with {types[-3:]}"


def numbers_without_gaps(scene: Scene) -> Found:
    """Events and steps are numbered from 1 without gaps, and the job's counts are theirs."""
    for job_id, job in scene.jobs.items():
        for kind, column, count in (
            ("event", [row["seq"] for row in scene.events[job_id]], job["event_count"]),
            ("step", [row["number"] for row in scene.steps[job_id]], job["step_count"]),
        ):
            if column != list(range(1, count + 1)):
                yield "lost", f"{job_id} counts {count} {kind}s and has {column}"


def runs_are_numbered(scene: Scene) -> Found:
    """Each run was claimed once, in order, and the job's number is the last one's."""
    for job_id, job in scene.jobs.items():
        numbers = [claim["payload"]["run"] for claim in scene.claims(job_id)]
        if numbers != list(range(1, job["run"] + 1)):
            yield "duplicated", f"{job_id} is in run {job['run']} and was claimed for runs {numbers}"
        for before, step in pairwise(scene.steps[job_id]):
            if before["run"] > step["run"]:
                yield "reordered", f"{job_id} step {step['number']} is of an earlier run than the one before"


def no_action_twice(scene: Scene) -> Found:
    """The sandbox carried out what the steps say: each action once, in order, and none that is not theirs."""
    for job_id in scene.lanes:
        done = [act.number for act in scene.acts_of(job_id)]
        if done != sorted(done):
            yield "reordered", f"{job_id} actions were carried out in the order {done}"
        statuses = {click: step["status"] for step in scene.steps[job_id] for click in _clicks(step)}
        yield from _compared(job_id, Counter(done), statuses)
    known = {job["sandbox_id"] for job in scene.jobs.values()}
    for sandbox, acts in scene.acts.items():
        if acts and sandbox not in known:
            yield "other", f"sandbox {sandbox} is no job's and was acted on"


def _compared(job_id: str, done: Counter[int], statuses: Mapping[int, str]) -> Found:
    for click, times in done.items():
        if times > 1:
            yield "duplicated", f"{job_id} action {click} was carried out {times} times"
        if statuses.get(click, "failed") == "failed":
            yield "other", f"{job_id} action {click} was carried out and is recorded as {statuses.get(click)}"
    for click, status in statuses.items():
        if click not in done and status == "done":
            yield "lost", f"{job_id} action {click} is recorded as done and was not carried out"


def no_step_forgotten(scene: Scene) -> Found:
    """A finished job decided all the steps of its script, each once; no ended job has an open step."""
    for job_id, (count, _) in scene.lanes.items():
        clicks = [click for step in scene.steps[job_id] for click in _clicks(step)]
        if scene.jobs[job_id]["status"] == "finished" and clicks != list(range(1, count + 1)):
            yield "lost", f"{job_id} finished, and its steps are {clicks} of {count}"
        still_open = [step["number"] for step in scene.steps[job_id] if step["status"] == "intended"]
        if scene.jobs[job_id]["status"] in TERMINAL and still_open:
            yield "other", f"{job_id} has ended, and its steps {still_open} have no outcome"


def none_by_a_superseded_run(scene: Scene) -> Found:
    """Once a job was claimed anew, no action of an earlier run was carried out."""
    for job_id in scene.lanes:
        claimed = {claim["payload"]["run"]: claim["created_at"] for claim in scene.claims(job_id)}
        runs = {click: step["run"] for step in scene.steps[job_id] for click in _clicks(step)}
        late = timedelta(seconds=scene.evidence.in_flight) + CLOCK_SLACK
        for act in scene.acts_of(job_id):
            run = runs.get(act.number, 0)
            if act.at < claimed.get(run, act.at) - CLOCK_SLACK:
                yield "other", f"{job_id} action {act.number} of run {run} came before its claim"
            if (after := claimed.get(run + 1)) and act.at > after + late:
                yield (
                    "other",
                    f"{job_id} action {act.number} of run {run} came {act.at - after} after the next",
                )


def one_driver_per_sandbox(scene: Scene) -> Found:
    """No two jobs had one sandbox at a time, and their actions do not mix."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for job_id, job in scene.jobs.items():
        if job["sandbox_key"]:
            by_key[job["sandbox_key"]].append(job_id)
    for sharing in by_key.values():
        drives = sorted((begin, end, job_id) for job_id in sharing for begin, end in scene.drives(job_id))
        for (_, end, one), (begin, _, other) in pairwise(drives):
            if one != other and begin < end - CLOCK_SLACK:
                yield "other", f"{one} and {other} had one sandbox at a time, for {end - begin}"
    for sandbox, acts in scene.acts.items():
        blocks = [lane for lane, _ in groupby(acts, key=lambda act: act.lane)]
        if len(blocks) != len(set(blocks)):
            yield "reordered", f"sandbox {sandbox} was driven by the lanes {blocks} in turn"


def statuses_are_final(scene: Scene) -> Found:
    """What the watcher saw: a terminal status never changed, and no count ever sank."""
    for text in scene.evidence.watched:
        yield "other", text


def streams_are_whole(scene: Scene) -> Found:
    """Each client received every event once and in order, however often it had to come back."""
    for heard in scene.evidence.heard:
        if heard.job_id is None:  # the answer was lost before its first event
            continue
        numbers = [number for number, _ in heard.events]
        told = [(event["seq"], event["type"]) for event in scene.events[heard.job_id]]
        if list(heard.events) != told:
            harm: Harm = "duplicated" if len(set(numbers)) < len(numbers) else "lost"
            harm = "reordered" if numbers != sorted(numbers) else harm
            yield harm, f"{heard.job_id}: a client received {numbers} of 1 to {len(told)}"


def cancels_hold(scene: Scene) -> Found:
    """What was answered as cancelled is cancelled, and was not acted on afterwards."""
    for cancel in scene.evidence.cancels:
        if cancel.status != "cancelled":
            continue
        if (status := scene.jobs[cancel.job_id]["status"]) != "cancelled":
            yield "other", f"{cancel.job_id} was answered as cancelled and is {status}"
        late = [act.number for act in scene.acts_of(cancel.job_id) if act.at > cancel.at + CLOCK_SLACK]
        if late:
            yield "other", f"{cancel.job_id} was answered as cancelled, and {late} were carried out later"


def takeovers_hold(scene: Scene) -> Found:
    """Nothing is done by the agent while a job is a human's."""
    for taken in scene.evidence.takeovers:
        since = taken.since + CLOCK_SLACK
        acts = [act.number for act in scene.acts_of(taken.job_id) if since < act.at < taken.until]
        if acts:
            yield "other", f"{taken.job_id} was a human's, and {acts} were carried out"


def webhooks_are_told(scene: Scene) -> Found:
    """Every end of a job, and each of its calls for a human, is owed to its receiver once, and came there."""
    for job_id in scene.jobs:
        due = [event["seq"] for event in scene.events[job_id] if event["type"] in TOLD]
        owed = [delivery["seq"] for delivery in scene.deliveries[job_id]]
        if owed != due:
            yield "lost" if len(owed) < len(due) else "duplicated", f"{job_id}: {owed} are owed of {due}"
        missing = [seq for seq in owed if f"{job_id}-{seq}" not in scene.evidence.delivered]
        if missing:
            yield "lost", f"{job_id}: the webhooks {missing} never came"


def nothing_kept_at_the_end(scene: Scene) -> Found:
    """An ended job has no lease, no credentials and, as all is told, no receiver."""
    receivers = "\n".join(scene.rows["public.webhooks"])
    for job_id, job in scene.jobs.items():
        kept = [name for name in ("lease_owner", "lease_expires_at", "credentials") if job[name] is not None]
        kept += ["webhook"] if job_id in receivers else []
        if job["status"] in TERMINAL and kept:
            yield "other", f"{job_id} is {job['status']} and has still {kept}"


def no_secret_in_sight(scene: Scene) -> Found:
    """No secret is readable in Redis, in a log, or in any column of PostgreSQL."""
    for name, secret in scene.evidence.secrets.items():
        for place, text in _places(scene):
            if secret in text or secret.encode().hex() in text:
                yield "other", f"{name} stands in {place}"
    for name in scene.evidence.overheard:
        yield "other", f"{name} passed through Redis"


def _places(scene: Scene) -> Iterator[tuple[str, str]]:
    for log in sorted(scene.evidence.logs.glob("*.log")):
        yield f"the log {log.name}", log.read_text(errors="replace")
    for table, rows in scene.rows.items():
        yield f"the table {table}", "\n".join(rows)
    yield "Redis", json.dumps(redis_contents(scene.evidence.redis))


def redis_contents(url: str) -> dict[str, str]:
    """Every key of Redis and its value, as text."""
    readers: dict[str, Callable[[Redis, str], object]] = {
        "string": lambda redis, key: redis.get(key),
        "list": lambda redis, key: redis.lrange(key, 0, -1),
        "hash": lambda redis, key: redis.hgetall(key),
        "set": lambda redis, key: redis.smembers(key),
        "zset": lambda redis, key: redis.zrange(key, 0, -1),
    }
    nothing: Callable[[Redis, str], object] = lambda *_: None  # noqa: E731 - a key that is gone by now
    with Redis.from_url(url, decode_responses=True) as redis:
        return {key: str(readers.get(str(redis.type(key)), nothing)(redis, key)) for key in redis.scan_iter()}


RULES: dict[str, Callable[[Scene], Found]] = {
    "every job ends": every_job_ends,
    "one terminal event, and it is the last": one_terminal_event,
    "events and steps are numbered without gaps": numbers_without_gaps,
    "runs are numbered without gaps": runs_are_numbered,
    "no action twice, none unrecorded": no_action_twice,
    "no step forgotten": no_step_forgotten,
    "no action by a superseded run": none_by_a_superseded_run,
    "one sandbox, one driver": one_driver_per_sandbox,
    "a terminal status never changes": statuses_are_final,
    "streams: every event once, in order": streams_are_whole,
    "an answered cancel holds": cancels_hold,
    "an answered takeover holds": takeovers_hold,
    "webhooks: owed once, and delivered": webhooks_are_told,
    "no lease, credentials, receiver at the end": nothing_kept_at_the_end,
    "no secret in Redis, logs or PostgreSQL": no_secret_in_sight,
}


@dataclass(frozen=True)
class Report:
    """What came of a scenario."""

    scene: Scene
    violations: Sequence[Violation]

    def __str__(self) -> str:
        lines = [f"{len(self.violations)} violation(s)", *map(str, self.violations)]
        for job_id in sorted({found for one in self.violations for found in _JOB.findall(one.text)}):
            lines += ["", self.story(job_id)]
        return "\n".join(lines)

    def story(self, job_id: str) -> str:
        """What happened to a job."""
        return "\n".join(_story(self.scene, job_id))

    def held(self, rule: str) -> bool:
        """Whether the rule was never broken."""
        return all(violation.rule != rule for violation in self.violations)

    def count(self, harm: Harm) -> int:
        """How many violations did this harm."""
        return sum(violation.harm == harm for violation in self.violations)

    @property
    def outcomes(self) -> Counter[str]:
        """How many jobs ended how."""
        return Counter(job["error_code"] or job["status"] for job in self.scene.jobs.values())


_JOB = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def check(evidence: Evidence) -> Report:
    """Looks at everything and reports all violations at once."""
    scene = Scene.read(evidence)
    found = [Violation(name, harm, text) for name, rule in RULES.items() for harm, text in rule(scene)]
    return Report(scene, found)


def _story(scene: Scene, job_id: str) -> Iterator[str]:
    job = scene.jobs.get(job_id)
    if job is None:
        return
    columns = ("status", "run", "crashes", "error_code", "error_message", "sandbox_id")
    columns += ("cancel_requested_at", "takeover_requested_at")
    yield f"{job_id} " + ", ".join(f"{name}={job[name]}" for name in columns if job[name] is not None)
    for event in scene.events[job_id]:
        shown = {k: v for k, v in event["payload"].items() if k not in ("screenshot", "actions", "content")}
        yield f"  event {event['seq']} {event['created_at']:%H:%M:%S.%f} {event['type']} {shown}"
    for step in scene.steps[job_id]:
        yield f"  step {step['number']} run {step['run']} {step['status']} clicks {_clicks(step)}"
    for act in scene.acts_of(job_id):
        yield f"  done {act.number} at {act.at:%H:%M:%S.%f}"
