"""Whatever is sent to the running gateway, by its own OpenAPI document or against it, it answers as that document says:
Schemathesis makes the requests, seeded.
"""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import negative_data_rejection, not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import ASKING, PLAN, TOKEN, Served, listening, served_in_thread

from gateway import pages

SEED = 20261122
CASES = 6
"""Of each operation, as many that fit as that do not."""
KNOWN = {
    "workflow": ["demo", "asking", "none"],
    "task": ["a", "b", "x"],
    "agent": ["ann", "bob"],
    "ask": ["ask-1", "ask-2"],
    "position": ["1", "2", "0", "9999999"],
}
"""So that not everything is about what is not there."""
PATHS = st.fixed_dictionaries({name: st.sampled_from(ids) for name, ids in KNOWN.items()}) | st.none()


def operations() -> dict[str, APIOperation]:
    """Without what the document says of tokens: those are another test's matter, and each request has the right one."""
    document = json.loads((Path(__file__).parents[2] / "schemas" / "openapi.json").read_text())
    del document["components"]["securitySchemes"]
    for verbs in document["paths"].values():
        for one in verbs.values():
            del one["security"]
    found = (result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations())
    return {one.label: one for one in found if not one.label.endswith("/stream")}  # its answers have no end


OPERATIONS = operations()


class Target(NamedTuple):
    url: str
    session: requests.Session


@pytest.fixture(scope="module")
def target(postgres_url: str, nats_url: str) -> Iterator[Target]:
    with (
        pytest.MonkeyPatch.context() as patch,
        served_in_thread(postgres_url, nats_url, "tfuzzed") as (system, call),
        requests.Session() as session,
    ):
        patch.setattr(pages, "VIEW_SECONDS", 0.05)
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        stack = AsyncExitStack()
        url = call(with_queue(system, stack))
        for body in ({"plan": PLAN}, {"plan": ASKING}):
            assert session.post(f"{url}/api/v1/workflows", json=body, timeout=10).status_code == 201
        yield Target(url, session)
        call(stack.aclose())


async def with_queue(system: Served, stack: AsyncExitStack) -> str:
    """A gateway with all routes there are."""
    slots = system.slots()
    await slots.open()
    return await stack.enter_async_context(listening(system, slots=slots))


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the server does, in its thread
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_answer_is_as_described(target: Target, label: str) -> None:
    operation = OPERATIONS[label]
    fuzz(operation, target, GenerationMode.POSITIVE)
    if [*operation.query] or operation.body:
        fuzz(operation, target, GenerationMode.NEGATIVE)


def fuzz(operation: APIOperation, target: Target, mode: GenerationMode) -> None:
    rules = {"max_examples": CASES, "deadline": None, "database": None, "phases": [Phase.generate]}

    @seed(SEED)
    @settings(**rules, suppress_health_check=[*HealthCheck])
    @given(case=operation.as_strategy(mode), path=PATHS)
    def check(case: Case, path: dict[str, str] | None) -> None:
        if path and case.path_parameters:
            case.path_parameters = {name: path[name] for name in case.path_parameters}
        response = case.call(base_url=target.url, session=target.session, timeout=10)
        # A sentence such as "`base` is a commit of `repository`, which is missing" is not in the shapes.
        excluded: list[Any] = [positive_data_acceptance]
        if operation.label == "POST /api/v1/plans/validate":
            excluded.append(negative_data_rejection)  # to say what is wrong with a plan is what it is for
        if response.status_code == 503 and response.json()["code"] == "view_behind":
            excluded.append(not_a_server_error)  # asked for a position that the ledger has not reached
        case.validate_response(response, excluded_checks=excluded)

    print(f"seed {SEED}")
    check()


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_nothing_that_is_not_open_is_answered_without_a_token(target: Target, label: str) -> None:
    method, path = label.split()
    for name, ids in KNOWN.items():
        path = path.replace(f"{{{name}}}", ids[0])
    answer = requests.request(method, target.url + path, timeout=10)
    assert (answer.status_code == 401) == (path.startswith("/api/") or path == "/metrics")
