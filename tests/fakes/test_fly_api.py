"""The API of the fake Fly: answers, limits, the specification, and what goes wrong on demand."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

from tests.fakes.fly import FakeFly
from tests.fakes.fly.cloud import six_pn
from tests.fakes.fly.errors import Refused
from tests.fakes.fly.guests import PRESETS, guest_of
from tests.fakes.fly.rates import DEFAULT, RATES, Buckets
from tests.fakes.fly.regions import candidates
from tests.fakes.fly.requests import Request
from tests.fakes.fly.settings import seconds_of
from tests.support.fly_help import Caller, body
from tests.support.waiting import wait_for

process = pytest.mark.process
unit = pytest.mark.unit


@pytest.fixture
def fly() -> Iterator[FakeFly]:
    with FakeFly(speed=40) as fly:
        yield fly


@pytest.fixture
def api(fly: FakeFly) -> Iterator[Caller]:
    with Caller(fly) as api:
        yield api


# The pure parts


@unit
@given(
    times=st.lists(st.integers(0, 8).map(lambda n: n / 4), min_size=30, max_size=60),
    action=st.sampled_from(["create", "get", "start"]),
)
def test_no_window_has_more_requests_than_the_rate(times: list[float], action: str) -> None:
    now = [0.0]
    buckets = Buckets(clock=lambda: now[0])
    rate = RATES.get(action, DEFAULT)
    granted = []
    for now[0] in sorted(times):
        wait = buckets.take(action, "it")
        if not wait:
            granted.append(now[0])
        else:
            now[0] += wait
            # Whoever waits for as long as it is told gets a token then.
            copy = Buckets(clock=lambda: now[0])
            copy._levels = dict(buckets._levels)
            assert copy.take(action, "it") == 0.0
    for start in range(len(granted)):
        for end in range(start, len(granted)):
            allowed = rate.burst + (granted[end] - granted[start]) * rate.per_second
            assert end - start + 1 <= allowed + 1e-6


@unit
def test_buckets_are_apart_and_scaled() -> None:
    now = [0.0]
    buckets = Buckets(speed=20, clock=lambda: now[0])
    assert [buckets.take("create", "a") == 0.0 for _ in range(4)] == [True, True, True, False]
    assert buckets.take("create", "b") == 0.0
    assert buckets.take("stop", "a") == 0.0
    assert [buckets.take("get", "a") == 0.0 for _ in range(11)].count(True) == 10
    now[0] = 1 / 20
    assert buckets.take("create", "a") == 0.0


@unit
@pytest.mark.parametrize(
    ("guest", "part"),
    [
        ({"cpu_kind": "performance", "cpus": 1, "memory_mb": 512}, "minimum required 2048 MiB"),
        ({"cpu_kind": "performance", "cpus": 2, "memory_mb": 32768}, "maximum allowed 16384 MiB"),
        ({"cpu_kind": "shared", "cpus": 3, "memory_mb": 1024}, "guest.cpus: 3"),
        ({"cpu_kind": "shared", "cpus": 1, "memory_mb": 300}, "256 MiB"),
        ({"cpu_kind": "huge", "cpus": 1}, "cpu_kind: huge"),
        ({"cpu_kind": "performance", "cpus": 8, "gpu_kind": "a10", "gpus": 1}, "withdrawn"),
    ],
)
def test_guests_that_there_are_not(guest: dict[str, Any], part: str) -> None:
    with pytest.raises(Refused, match=part):
        guest_of({"guest": guest})


@unit
def test_presets_are_guests() -> None:
    for name, guest in PRESETS.items():
        assert guest_of({"guest": guest}) == guest_of({"size": name}) == dict(guest)


@unit
def test_small_things() -> None:
    assert candidates("ams,eu", "iad")[:2] == ["ams", "arn"]
    assert candidates(None, "iad") == ["iad"]
    assert seconds_of("500ms", 5) == 0.5
    assert len({six_pn(n) for n in range(70000)}) == 70000


# Answers


@process
def test_the_token_and_the_app_have_to_be_right(fly: FakeFly) -> None:
    with Caller(fly, token="fm2_other") as api:
        response = api.get("/machines")
        assert (response.status_code, "error" in response.json()) == (401, True)
    assert httpx.get(f"{fly.url}/v1/apps/flame/machines").status_code == 401
    with Caller(fly, app="other") as api:
        assert api.get("/machines").status_code == 404
        assert api.post("/machines", json=body()).status_code == 404
    with Caller(fly) as api:
        assert api.get("/machines/123").status_code == 404
        assert api.get("/no/such").status_code == 404


@process
def test_a_token_with_its_own_scheme() -> None:
    with FakeFly(token="FlyV1 fm2_one,fm2_two") as fly:
        for header in ("Bearer FlyV1 fm2_one,fm2_two", "FlyV1 fm2_one,fm2_two"):
            where = f"{fly.url}/v1/apps/flame/machines"
            assert httpx.get(where, headers={"Authorization": header}).json() == []


@process
def test_a_name_belongs_to_one_machine(fly: FakeFly, api: Caller) -> None:
    machine = api.started("one")
    again = api.post("/machines", json=body("one"))
    assert again.status_code == 409
    assert f"machine ID {machine} already exists with name" in again.json()["error"]
    api.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
    api.reaches(machine, "destroyed")
    assert api.make("one") != machine


@process
def test_lists_by_metadata_and_region(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    one = api.make("one", metadata={"cluster": "a", "pool": "x"}, region="ams")
    two = api.make("two", metadata={"cluster": "a", "pool": "y"}, region="fra")
    api.make("three", metadata={"cluster": "b"})

    def ids(**query: str) -> list[str]:
        return [m["id"] for m in api.ok("GET", "/machines", params=query)]

    assert ids(**{"metadata.cluster": "a"}) == [one, two]
    assert ids(**{"metadata.cluster": "a", "metadata.pool": "y"}) == [two]
    assert ids(region="ams", **{"metadata.cluster": "a"}) == [one]
    assert ids(**{"metadata.none": ""}) == []
    api.ok("POST", f"/machines/{one}/metadata/cluster", json={"value": "c"})
    assert api.ok("GET", f"/machines/{one}/metadata") == {"cluster": "c", "pool": "x"}
    assert ids(**{"metadata.cluster": "a"}) == [two]
    api.ok("DELETE", f"/machines/{one}/metadata/pool")
    assert api.ok("GET", f"/machines/{one}/metadata") == {"cluster": "c"}


@process
def test_wait_ends_and_says_so(api: Caller) -> None:
    machine = api.make(skip_launch=True)
    late = api.get(f"/machines/{machine}/wait", params={"state": "started", "timeout": 1})
    assert late.status_code == 408
    assert "currently created" in late.json()["error"]
    for query in ({"timeout": 61}, {"timeout": 0}, {"state": "stopped"}):
        assert api.get(f"/machines/{machine}/wait", params=query).status_code == 400


@process
def test_a_lease_keeps_others_out(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    machine = api.started()
    lease = api.ok("POST", f"/machines/{machine}/lease", json={"ttl": 60, "description": "mine"})
    assert "nonce" not in api.ok("GET", f"/machines/{machine}/lease")
    held = api.delete(f"/machines/{machine}", params={"force": "true"})
    assert (held.status_code, "lease currently held" in held.text) == (409, True)
    mine = {"fly-machine-lease-nonce": lease["nonce"]}
    api.ok("POST", f"/machines/{machine}/stop", headers=mine)
    api.ok("DELETE", f"/machines/{machine}/lease", headers=mine)
    assert api.get(f"/machines/{machine}/lease").status_code == 404
    assert "nonce" in api.ok("POST", "/machines", json={**body(), "lease_ttl": 30})


@process
def test_apps_and_volumes(fly: FakeFly, api: Caller) -> None:
    made = httpx.post(
        f"{fly.url}/v1/apps", headers=api.headers, json={"app_name": "new", "org_slug": "team"}
    )
    assert made.status_code == 201
    with Caller(fly, app="new") as new:
        url = str(new.base_url).rstrip("/")
        assert new.ok("GET", url)["organization"]["slug"] == "team"
        volume = new.ok("POST", "/volumes", json={"name": "data", "size_gb": 3, "region": "fra"})
        machine = new.started(mounts=[{"volume": volume["id"], "path": "/data"}])
        assert new.delete(f"/volumes/{volume['id']}").status_code == 412
        assert new.delete(url).status_code == 412
        new.ok("DELETE", f"/machines/{machine}", params={"force": "true"})
        new.reaches(machine, "destroyed")
        new.ok("DELETE", f"/volumes/{volume['id']}")
        assert new.ok("GET", "/volumes") == []
        assert new.delete(url).status_code == 202
    listed = httpx.get(f"{fly.url}/v1/apps", headers=api.headers, params={"org_slug": "personal"})
    assert [app["name"] for app in listed.json()["apps"]] == ["flame"]


@process
def test_output_comes_in_pages(fly: FakeFly, api: Caller) -> None:
    count = "for n in range(250): print('line', n)"
    machine = api.make("one", command=[sys.executable, "-c", count], auto_destroy=True)
    api.reaches(machine, "destroyed")
    where, token, lines = f"{fly.url}/api/v1/apps/flame/logs", "", []
    while True:
        query = {"instance": machine, "next_token": token}
        answer = httpx.get(where, headers=api.headers, params=query).json()
        if not answer["data"]:
            break
        lines += [line["attributes"]["message"] for line in answer["data"]]
        token = answer["meta"]["next_token"]
    assert lines == [f"line {n}" for n in range(250)]
    assert httpx.get(where, params={"instance": machine}).status_code == 401


# Limits


@process
def test_create_is_limited_per_app() -> None:
    with FakeFly(apps=("flame", "other")) as slow:
        with Caller(slow) as one, Caller(slow, app="other") as two:
            made = [one.post("/machines", json=body(skip_launch=True)) for _ in range(5)]
            assert [r.status_code for r in made] == [200, 200, 200, 429, 429]
            assert made[-1].json() == {"error": "rate limit exceeded"}
            two.make(skip_launch=True)
            machine = made[0].json()["id"]
            gets = [one.get(f"/machines/{machine}").status_code for _ in range(12)]
            assert gets.count(429) in (1, 2)
            # Each machine has its own limit for "start".
            for response in made[:3]:
                assert one.post(f"/machines/{response.json()['id']}/start").is_success
        refused = slow.requests.of("create", status=429)
        assert [request.error for request in refused] == ["rate limit exceeded"] * 2


@process
def test_64_creates_at_the_scaled_rate(fly: FakeFly) -> None:
    fly.limit(64)
    with Caller(fly) as api:
        made, since = 0, time.monotonic()
        while made < 64:
            if api.post("/machines", json=body(skip_launch=True)).is_success:
                made += 1
        # At 40 a second for each second of the real one, after the first three.
        assert time.monotonic() - since >= 61 / 40 * 0.95
        wait_for(lambda: api.post("/machines", json=body()).status_code == 422)


@process
def test_no_room_in_a_region(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    fly.capacity("ams", 0)
    fly.capacity("fra", 1, cpu_kind="performance")
    guest = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 2048}
    refused = api.post("/machines", json=body(region="ams"))
    assert refused.status_code == 412
    assert refused.json()["status"] == "insufficient_capacity"
    first = api.started("first", region="ams,fra", guest=guest)
    assert {m["id"]: m["region"] for m in fly.machines()}[first] == "fra"
    assert api.post("/machines", json=body(region="ams,fra", guest=guest)).status_code == 412
    api.ok("POST", f"/machines/{first}/stop")
    api.reaches(first, "stopped")
    api.started("second", region="fra", guest=guest)
    full = api.post(f"/machines/{first}/start")
    assert (full.status_code, "insufficient memory" in full.text) == (409, True)
    assert api.post("/machines", json=body(region="xyz")).status_code == 400


# The specification


@process
def test_requests_are_checked_against_the_specification(fly: FakeFly, api: Caller) -> None:
    if not fly.validates:
        pytest.skip("the specification of the Machines API is not on this computer")
    fly.unlimited()
    wrong = [
        ("POST", "/machines", {"json": {**body(), "nme": "a"}}, "nme"),
        ("POST", "/machines", {"json": body(auto_destory=True)}, "auto_destory"),
        ("POST", "/machines", {"json": body(env={"A": 1})}, "config.env.A"),
        ("POST", "/machines", {"json": body(restart={"policy": "never"})}, "enum"),
        ("POST", "/machines", {"json": body(metadata={"a": None})}, "config.metadata.a"),
        ("GET", "/machines", {"params": {"met.a": "b"}}, "met.a"),
        ("GET", "/machines", {"params": {"include_deleted": "1"}}, "include_deleted"),
    ]
    for method, path, how, part in wrong:
        response = api.request(method, path, **how)
        assert (response.status_code, part in response.text) == (400, True), response.text
    assert len(fly.violations) == len(wrong)
    assert fly.machines() == []


@process
def test_validation_does_not_tell_values(fly: FakeFly, api: Caller) -> None:
    if not fly.validates:
        pytest.skip("the specification of the Machines API is not on this computer")
    response = api.post("/machines", json=body(env={"A": ["swordfish"]}))
    assert response.status_code == 400
    assert "swordfish" not in response.text + repr(fly.violations) + repr(fly.requests)


# Mischief


@process
def test_faults_before_and_after(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    fly.fail("create", status=503, times=2, retry_after=1)
    first = api.post("/machines", json=body("one"))
    assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
    assert api.post("/machines", json=body("one")).status_code == 503
    assert fly.machines() == []
    fly.fail("create", status=None, after=True)
    with pytest.raises(httpx.RemoteProtocolError):
        api.post("/machines", json=body("one"))
    assert [m["name"] for m in fly.machines()] == ["one"]
    fly.fail("create", status=504, after=True)
    assert api.post("/machines", json=body("two")).status_code == 504
    assert [m["name"] for m in fly.machines()] == ["one", "two"]
    fly.fail(lambda request: request.action == "get", status=500, hang=60)
    with pytest.raises(httpx.ReadTimeout):
        api.get(f"/machines/{fly.machines()[0]['id']}", timeout=0.2)
    fly.fail("*", times=100)
    fly.calm()
    assert api.get("/machines").status_code == 200


@process
def test_storms_tokens_and_outages(fly: FakeFly, api: Caller) -> None:
    fly.storm(60)
    assert api.get("/machines").status_code == 429
    fly.calm()
    assert api.get("/machines").status_code == 200
    fly.revoke()
    assert api.get("/machines").status_code == 401
    fly.grant(fly.token)
    fly.down()
    with pytest.raises(httpx.ConnectError):
        api.get("/machines")
    fly.up()
    assert api.get("/machines").status_code == 200


@process
def test_a_machine_stuck_in_created(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    fly.stick(2)
    one, two = api.make("one"), api.make("two")
    api.started("three")
    assert fly.states() == {"one": "created", "two": "created", "three": "started"}
    fly.release("one")
    api.reaches(one, "started")
    api.ok("DELETE", f"/machines/{two}", params={"force": "true"})
    api.reaches(two, "destroyed")


@process
def test_machines_die_and_are_destroyed_by_others(fly: FakeFly, api: Caller) -> None:
    fly.unlimited()
    ends: dict[str, dict[str, Any]] = {}
    for name in ("kill", "oom", "halt"):
        machine = api.started(name)
        getattr(fly, name)(name)
        api.reaches(machine, "stopped")
        events = api.ok("GET", f"/machines/{machine}/events")
        ends[name] = next(e for e in events if e["type"] == "exit")["request"]["exit_event"]
    found = {name: (e["oom_killed"], e["requested_stop"]) for name, e in ends.items()}
    assert found == {"kill": (False, False), "oom": (True, False), "halt": (False, True)}
    assert ends["oom"]["exit_code"] == 137
    machine = api.started("gone")
    fly.destroy("gone")
    api.reaches(machine, "destroyed")


@process
def test_its_clock_may_be_wrong(fly: FakeFly, api: Caller) -> None:
    fly.skew(-3600)
    response = api.get("/machines")
    told = parsedate_to_datetime(response.headers["Date"]).timestamp()
    assert abs(told - (time.time() - 3600)) < 120
    api.make("one")
    (machine,) = fly.machines()
    assert abs(machine["events"][0]["timestamp"] / 1000 - (time.time() - 3600)) < 120


@process
def test_reprs_show_no_secrets(fly: FakeFly, api: Caller) -> None:
    api.make("one", env={"PASSWORD": "swordfish"})
    (request,) = fly.requests.of("create")
    assert isinstance(request, Request)
    assert request.body["config"]["env"] == {"PASSWORD": "swordfish"}
    shown = repr((fly, fly.requests, fly._api.machines(), fly._server.faults))
    assert "swordfish" not in shown
    assert fly.token not in shown
