"""Jobs of a component, from outside: what becomes of them, how they are held, stopped, bounded and repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from platformd.model.component import ENDED
from tests.component.conftest import Served

Start = Callable[..., Awaitable[Served]]


async def test_a_job_gives_its_result(served: Served) -> None:
    """It is accepted with a Location, and ends with what its function returned, and with its last word."""
    answer = await served.ask("POST", "/jobs/", {"service": "repeat", "parameters": {"text": "ab", "times": 2}})
    assert (answer.status, answer.headers["location"]) == (202, f"/jobs/{answer.json['id']}")
    job = await served.until(answer.json["id"], *ENDED)
    assert (job["state"], job["result"]) == ("successful", {"text": "abab"})
    assert (job["progress"], job["message"]) == (0.5, "half of it")
    assert job["created_at"] <= job["started_at"] <= job["ended_at"]


@pytest.mark.parametrize(
    ("service", "code", "said"),
    [
        ("fail", "job_failed", "ZeroDivisionError"),
        ("refuse", "unavailable", "the dome is closed"),
        ("strange", "job_failed", "object"),
    ],
)
async def test_a_job_that_raises_has_failed(served: Served, service: str, code: str, said: str) -> None:
    """What a function raises is the job's error, as a problem; the component goes on."""
    job = await served.until((await served.submit(service))["id"], *ENDED)
    assert (job["state"], job["error"]["code"]) == ("failed", code)
    assert said in job["error"]["detail"]
    again = await served.until((await served.submit("repeat", {"text": "x"}))["id"], *ENDED)
    assert again["state"] == "successful"


@pytest.mark.parametrize("service", ["wait", "thread"])
async def test_a_job_is_stopped(served: Served, service: str) -> None:
    """DELETE ends a job on the loop and one in a thread, both clean up, and a second DELETE changes nothing."""
    job = await served.submit(service)
    await served.until(job["id"], "running")
    assert (await served.ask("DELETE", f"/jobs/{job['id']}")).status in (200, 202)
    ended = await served.until(job["id"], *ENDED)
    assert (ended["state"], ended["stopping"]) == ("dismissed", False)
    assert served.sample.cleaned == [job["id"]]
    again = await served.ask("DELETE", f"/jobs/{job['id']}")
    assert (again.status, again.json) == (200, ended)


@pytest.mark.parametrize("service", ["wait", "thread"])
async def test_jobs_are_held_while_the_component_is_paused(served: Served, service: str) -> None:
    """Paused, running jobs hold at their checkpoint and new ones wait; resumed, all go on."""
    running = (await served.submit(service))["id"]
    await served.until(running, "running")
    assert (await served.ask("POST", "/control", {"action": "pause"})).json["state"] == "paused"
    await served.until(running, "paused")
    waiting = (await served.submit("repeat", {"text": "x"}))["id"]
    assert (await served.ask("GET", f"/jobs/{waiting}")).json["state"] == "queued"
    status = (await served.ask("GET", "/status")).json
    assert (status["state"], status["jobs"]["paused"], status["jobs"]["queued"]) == ("paused", 1, 1)
    await served.ask("POST", "/control", {"action": "resume"})
    await served.until(running, "running")
    await served.until(waiting, "successful")


async def test_a_held_job_is_stopped(served: Served) -> None:
    """A job that is held in a thread can be stopped while it is."""
    job = (await served.submit("thread"))["id"]
    await served.until(job, "running")
    await served.ask("POST", "/control", {"action": "pause"})
    await served.until(job, "paused")
    await served.ask("DELETE", f"/jobs/{job}")
    assert (await served.until(job, *ENDED))["state"] == "dismissed"


async def test_only_so_many_run_and_wait(start: Start) -> None:
    """Over max_running jobs wait, over max_queued they are refused; a job that waits is stopped before it began."""
    served = await start(max_running=1, max_queued=2)
    running = (await served.submit("wait"))["id"]
    await served.until(running, "running")
    waiting = [(await served.submit("wait"))["id"] for _ in range(2)]
    refused = await served.ask("POST", "/jobs/", {"service": "wait"})
    assert (refused.status, refused.json["code"]) == (429, "limit_reached")
    assert "max_queued" in refused.json["detail"]
    first = (await served.ask("DELETE", f"/jobs/{waiting[0]}")).json
    assert (first["state"], first["started_at"]) == ("dismissed", None)
    await served.ask("DELETE", f"/jobs/{running}")
    await served.until(waiting[1], "running")


async def test_old_jobs_are_forgotten(start: Start) -> None:
    """Of jobs that ended only max_ended are kept; the oldest is not there any more."""
    served = await start(max_ended=2)
    ids = []
    for _ in range(3):
        ids.append((await served.submit("repeat", {"text": "x"}))["id"])
        await served.until(ids[-1], "successful")
    assert (await served.ask("GET", f"/jobs/{ids[0]}")).status == 404
    listed = (await served.ask("GET", "/jobs/")).json
    assert [job["id"] for job in listed["items"]] == [ids[2], ids[1]]
    assert (listed["jobs"]["today"], listed["jobs"]["successful"]) == (3, 2)


async def test_a_large_result_fails(start: Start) -> None:
    """A result over max_result makes the job fail, and says which limit that was."""
    served = await start(max_result="1KiB")
    job = await served.until((await served.submit("repeat", {"text": "x", "times": 5000}))["id"], *ENDED)
    assert (job["state"], job["error"]["code"], job["result"]) == ("failed", "too_large", None)
    assert "1KiB" in job["error"]["detail"]


async def test_the_same_request_makes_one_job(start: Start) -> None:
    """With the same key the same request is answered with its job, another is refused, and old keys are forgotten."""
    served = await start(max_keys=1)
    first = await served.submit("repeat", {"text": "x"}, Idempotency_Key="k1")
    again = await served.ask("POST", "/jobs/", {"parameters": {"text": "x"}, "service": "repeat"}, Idempotency_Key="k1")
    assert (again.status, again.json["id"]) == (202, first["id"])
    assert again.headers["idempotency-replayed"] == "true"
    other = await served.ask("POST", "/jobs/", {"service": "repeat", "parameters": {"text": "y"}}, Idempotency_Key="k1")
    assert other.status == 422
    await served.submit("repeat", {"text": "x"}, Idempotency_Key="k2")
    assert (await served.submit("repeat", {"text": "x"}, Idempotency_Key="k1"))["id"] != first["id"]


async def test_pages_list_each_job_once(served: Served) -> None:
    """Newest first, a page at a time, also while jobs are added; filters hold."""
    ids = [(await served.submit("repeat", {"text": str(n)}))["id"] for n in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await served.ask("GET", f"/jobs/?limit=2&service=repeat{cursor}")).json
        seen += [job["id"] for job in page["items"]]
        await served.submit("fail")
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == ids[::-1]
    assert (await served.ask("GET", "/jobs/?cursor=x")).status == 400


async def test_a_wait_ends_with_the_state(served: Served) -> None:
    """A long poll of a job is answered when its state is another one."""
    job = (await served.submit("thread"))["id"]
    await served.until(job, "running")
    got: list[Any] = []

    async def wait() -> None:
        got.append((await served.ask("GET", f"/jobs/{job}?wait=60s")).json["state"])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.01)
            served.sample.go.set()
    assert got == ["successful"]


async def test_drained_it_takes_no_jobs(served: Served) -> None:
    """Draining refuses new jobs and lets those that are there go on; resumed, it takes them again."""
    job = (await served.submit("wait"))["id"]
    await served.until(job, "running")
    assert (await served.ask("POST", "/control", {"action": "drain"})).json["state"] == "draining"
    refused = await served.ask("POST", "/jobs/", {"service": "wait"})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert (await served.ask("GET", f"/jobs/{job}")).json["state"] == "running"
    await served.ask("POST", "/control", {"action": "resume"})
    await served.submit("repeat", {"text": "x"})


async def test_stopped_it_ends_its_jobs(served: Served) -> None:
    """Told to stop, it stops the jobs that run, which clean up, and then serves no more."""
    for service in ("wait", "thread"):
        await served.until((await served.submit(service))["id"], "running")
    answer = await served.ask("POST", "/control", {"action": "stop"})
    assert answer.json["state"] == "stopping"
    with trio.fail_after(30):
        await served.done.wait()
    assert len(served.sample.cleaned) == 2
    assert not served.socket.exists()


async def test_a_job_that_does_not_listen_is_left_behind(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never looks up cannot keep the component from ending, beyond its deadline."""
    served = await start(stop_deadline="100ms")
    monkeypatch.setattr("platformd.component.handle.Job.check", lambda self: None)
    await served.until((await served.submit("thread"))["id"], "running")
    served.stopping.set()
    with trio.fail_after(30):
        await served.done.wait()
    assert served.sample.cleaned == []


async def test_configuration(served: Served) -> None:
    """It is read with its revision, replaced whole, checked by the author's own rule, and conditional."""
    before = (await served.ask("GET", "/config")).json
    assert before["config"] == {"threshold": 5.0}
    for body, status in (({"threshold": -1}, 422), ({"threshold": "x"}, 422), ({"other": 1}, 422)):
        assert (await served.ask("PUT", "/config", body)).status == status
    dry = await served.ask("PUT", "/config?dry_run", {"threshold": 6})
    assert dry.json["config"] == {"threshold": 6.0}
    assert served.sample.component.config.threshold == 5.0
    answer = await served.ask("PUT", "/config", {"threshold": 6}, If_Match=f'"{before["revision"]}"')
    assert (answer.status, answer.headers["etag"]) == (200, f'"{before["revision"] + 1}"')
    assert served.sample.component.config.threshold == 6.0
    assert (await served.ask("PUT", "/config", {"threshold": 7}, If_Match=f'"{before["revision"]}"')).status == 412
    assert (await served.ask("GET", "/config", If_None_Match=answer.headers["etag"])).status == 304


async def test_control_names_what_is_legal(served: Served) -> None:
    """What the state does not allow is refused with what it does; a dry run changes nothing."""
    refused = await served.ask("POST", "/control", {"action": "resume"})
    assert (refused.status, refused.json["hint"]) == (409, "legal now: pause, drain, stop")
    assert (await served.ask("POST", "/control?dry_run", {"action": "stop"})).json["state"] == "running"
    assert not served.stopping.is_set()


async def test_its_own_gauges_are_metrics(served: Served) -> None:
    """What the author shows is there, beside the jobs by state."""
    await served.until((await served.submit("fail"))["id"], "failed")
    text = (await served.ask("GET", "/metrics")).body.decode()
    assert "sample_depth 7.0" in text
    assert 'component_jobs{service="fail",state="failed"} 1.0' in text
