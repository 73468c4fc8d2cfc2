"""A ledger against a model of ten lines: random appends, conflicts, repeats, reads, followers and restarts agree with it
at every step."""

import asyncio
import secrets
from typing import Any
from uuid import UUID, uuid4

from appends import append, followed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ledger.errors import AlreadyRecorded, WrongVersion
from ledger.ledger import Ledger

STREAMS = ("workflow-a", "workflow-b", "agent-c")


class Model:
    """What a ledger is."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.answers: dict[UUID, list[int]] = {}

    def append(self, stream: str, expected: int, count: int, command: UUID) -> list[int] | str:
        if command in self.answers:
            return "already"
        if expected != sum(name == stream for name, _ in self.log):
            return "wrong"
        self.log += [(stream, expected + number) for number in range(1, count + 1)]
        self.answers[command] = list(range(len(self.log) - count + 1, len(self.log) + 1))
        return self.answers[command]


def test_a_ledger_behaves_like_its_model(postgres_url: str) -> None:
    class Machine(RuleBasedStateMachine):
        commands = Bundle("commands")

        def __init__(self) -> None:
            super().__init__()
            self.model = Model()
            self.runner = asyncio.Runner()
            self.tenant = f"m{secrets.token_hex(4)}"
            self.followed = 0
            self.ledger, self.holding = self.runner.run(self.open())

        async def open(self) -> tuple[Ledger, asyncio.Task[None]]:
            opened: asyncio.Future[Ledger] = asyncio.get_running_loop().create_future()
            self.stop = asyncio.Event()

            async def hold() -> None:
                async with Ledger.open(postgres_url, tenant=self.tenant) as ledger:
                    opened.set_result(ledger)
                    await self.stop.wait()

            holding = asyncio.create_task(hold())
            return await opened, holding

        async def outcome(self, stream: str, expected: int, count: int, command: UUID) -> list[int] | str:
            (answer,) = await asyncio.gather(
                self.ledger.append(append(stream, expected, count, command=command)), return_exceptions=True
            )
            match answer:
                case WrongVersion():
                    assert answer.actual == sum(name == stream for name, _ in self.model.log)
                    return "wrong"
                case AlreadyRecorded():
                    assert [event.position for event in answer.recorded] == self.model.answers[command]
                    return "already"
                case BaseException():
                    raise answer
                case _:
                    return [event.position for event in answer]

        @rule(
            target=commands,
            stream=st.sampled_from(STREAMS),
            count=st.integers(1, 3),
            off=st.sampled_from((0, 0, 0, -1, 1)),
        )
        def append(self, stream: str, count: int, off: int) -> UUID:
            command = uuid4()
            expected = max(0, sum(name == stream for name, _ in self.model.log) + off)
            found = self.runner.run(self.outcome(stream, expected, count, command))
            assert found == self.model.append(stream, expected, count, command)
            return command

        @rule(command=commands, stream=st.sampled_from(STREAMS), count=st.integers(1, 3))
        def repeat(self, command: UUID, stream: str, count: int) -> None:
            expected = sum(name == stream for name, _ in self.model.log)
            found = self.runner.run(self.outcome(stream, expected, count, command))
            assert found == self.model.append(stream, expected, count, command)

        @rule(stream=st.sampled_from(STREAMS), callers=st.integers(2, 5))
        def race(self, stream: str, callers: int) -> None:
            expected = sum(name == stream for name, _ in self.model.log)
            made = [uuid4() for _ in range(callers)]

            async def together() -> list[Any]:
                return await asyncio.gather(
                    *(self.ledger.append(append(stream, expected, 1, command=command)) for command in made),
                    return_exceptions=True,
                )

            outcomes = self.runner.run(together())
            (winner,) = (number for number, outcome in enumerate(outcomes) if isinstance(outcome, list))
            assert [outcomes[winner][0].position] == self.model.append(stream, expected, 1, made[winner])

        @rule(after=st.integers(0, 40), limit=st.integers(1, 10))
        def read(self, after: int, limit: int) -> None:
            found = self.runner.run(self.ledger.read(after, limit))
            assert [(event.stream, event.version) for event in found] == self.model.log[after : after + limit]

        @rule()
        def follow(self) -> None:
            """From where the last one ended: everything since then, once."""
            found = self.runner.run(followed(self.ledger, len(self.model.log), self.followed))
            assert [(event.stream, event.version) for event in found] == self.model.log[self.followed :]
            self.followed = len(self.model.log)

        @rule()
        def restart(self) -> None:
            self.runner.run(self.close())
            self.ledger, self.holding = self.runner.run(self.open())

        async def close(self) -> None:
            self.stop.set()
            await self.holding

        @invariant()
        def head_is_the_end(self) -> None:
            assert self.runner.run(self.ledger.head()).position == len(self.model.log)

        def teardown(self) -> None:
            assert self.runner.run(self.ledger.verify()).events == len(self.model.log)
            self.runner.run(self.close())
            self.runner.close()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
