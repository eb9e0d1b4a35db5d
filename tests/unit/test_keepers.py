"""Keepers: a child that dies is started again, after pauses that grow; a signal meanwhile is not lost."""

import signal
from pathlib import Path

from local.keepers import Backoff, Keeper, Service
from local.processes import Program
from local.stack import Interrupts, Stopped

AT_ONCE = 0.0


def service(folder: Path, script: str) -> Service:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return Service(Program(name="child", argv=[str(program)], log=folder / "log", environment={}))


def test_pauses_double_up_to_a_limit_until_it_lived_long() -> None:
    backoff = Backoff()
    lives = [AT_ONCE] * 5 + [29.9, AT_ONCE, AT_ONCE, 30, AT_ONCE]
    assert [backoff.pause(lived) for lived in lives] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 0.2, 0.4]


def test_child_that_always_dies_is_tried_after_growing_pauses(tmp_path: Path) -> None:
    doomed = service(tmp_path, "echo no luck; exit 3")
    now = 100.0
    keeper = Keeper(doomed, now)
    for pause in ("0.2", "0.4", "0.8"):
        dead = doomed.child
        assert dead.wait_gone(10)
        assert keeper.tend(now) == f"died with exit code 3, starting again in {pause} s\n  no luck"
        assert keeper.tend(now + float(pause) * 0.9) is None
        assert doomed.child is dead
        now += float(pause)
        assert keeper.tend(now) is None
        assert doomed.child is not dead
    doomed.child.kill()


def test_killed_child_has_no_last_words(tmp_path: Path) -> None:
    victim = service(tmp_path, "echo well; kill -9 $$")
    keeper = Keeper(victim, now=0)
    assert victim.child.wait_gone(10)
    assert keeper.tend(now=1000) == "died with signal 9, starting again in 0.2 s"


def test_child_that_lives_is_left_alone(tmp_path: Path) -> None:
    living = service(tmp_path, "sleep 60")
    pid = living.child.pid
    try:
        assert Keeper(living, now=0).tend(now=1000) is None
        assert living.child.pid == pid
        assert living.child.exit_code is None
    finally:
        living.child.kill()


def test_child_that_cannot_be_started_is_tried_later(tmp_path: Path) -> None:
    lost = service(tmp_path, "exit 0")
    keeper = Keeper(lost, now=0)
    assert lost.child.wait_gone(10)
    assert keeper.tend(now=0) == "died with exit code 0, starting again in 0.2 s"
    (tmp_path / "program").rename(tmp_path / "elsewhere")
    news = keeper.tend(now=1)
    assert news is not None
    assert "can't be started: [Errno 2] No such file" in news
    assert news.endswith("starting again in 0.4 s")
    (tmp_path / "elsewhere").rename(tmp_path / "program")
    assert keeper.tend(now=2) is None
    assert lost.child.wait_gone(10)


def test_signal_while_a_child_is_born_takes_effect_thereafter() -> None:
    happened = []
    with Interrupts(kill=list) as interrupts:
        try:
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                happened.append("born")
        except Stopped:
            happened.append("stopped")
    assert happened == ["born", "stopped"]
