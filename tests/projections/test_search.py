"""Everything that was said is found by its words, whatever is asked, and by way of the index."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from histories import history
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables
from test_views import Fold

from domain.commands import Answer, Command, ReportAsked, ReportCompleted, ReportFailed, ReportNoted, ReportStarted
from domain.commands import StartWorkflow as Start
from domain.outcome import Failure, Result
from domain.plan import Plan, Task
from domain.state import CLOSED, Workflow, replay
from domain.workflow import decide
from ledger.postgres import Connection
from projections.project import Projection
from projections.search import SQL, BadQuery, Cursor, Hit, Search, parse, search
from projections.search_fold import DOCUMENT_CHARACTERS
from projections.search_text import SNIPPET_CHARACTERS, Term, lexed, snippet, words

NOW = 1_800_000_000.0
TASKS = (
    Task("login", title="Sign people in", description="Write src/auth/session_store.py so that parseToken works."),
    Task("report", title="Quarterly report", agent_role="writer", inputs={"colour": "turquoise"}),
    Task("deploy", title="Deploy", description="It's 100% 'quoted' \\ \0 text", dependencies=("login",)),
)
ANN, BOB = ({"now": NOW, "task": task, "run": f"{task}/1", "agent": agent} for task, agent in
            (("login", "ann"), ("report", "bob-2")))  # fmt: skip
HAPPENED: tuple[Command, ...] = (
    Start(
        now=NOW, workflow="sprint", plan=Plan(id="sprint", title="The spring sprint", objective="Ship it", tasks=TASKS)
    ),
    ReportStarted(token=1, **ANN),
    ReportNoted(token=1, key="tried", value={"cache": "warmed twice"}, **ANN),
    ReportFailed(
        token=1, failure=Failure("timeout", "no answer", "at HttpClient.connect(host.example.com:8443)"), **ANN
    ),
    ReportStarted(token=2, **BOB),
    ReportAsked(token=2, question="Which currency should it be in?", options=("euro", "dollar"), **BOB),
)


async def happened(ledger: Any, commands: tuple[Command, ...] = HAPPENED) -> int:
    state, decisions = Workflow(), []
    for command in commands:
        if isinstance(command, Answer):
            command = Answer(now=NOW, ask=(ask := next(iter(state.asks))), shown=state.asks[ask].shown, choice="euro",
                             by="pat", because="we are in Lisbon")  # fmt: skip
        events = decide(state, command)
        replay(events, state)
        decisions.append(("sprint", events))
    return (await record(ledger, decisions))[-1]


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    answer = Answer(now=NOW, ask="", shown="", choice="", by="")
    done = ReportCompleted(now=NOW, task="report", run="report/2", token=3, agent="eve", result=Result(
        "Wrote the chapter on margins", "c1", ("docs/q3_margins.md",), {"pages": "fortytwo"}))  # fmt: skip
    begun = ReportStarted(now=NOW, task="report", run="report/2", token=3, agent="eve")
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:
        head = await happened(ledger, (*HAPPENED, answer, begun, done))
        await projected(Projection(connections, Search()), Sliced(ledger, [3]), head)
        yield connection


def names(hits: list[Hit]) -> set[str]:
    return {hit.agent or (hit.ask and "ask") or hit.task or hit.workflow or "" for hit in hits}


async def found(connection: Connection, text: str) -> set[str]:
    return names((await search(connection, parse(text)))[0])


FOUND = [
    ("spring", {"sprint"}), ("SHIP", {"sprint"}), ("sprint", {"sprint"}),
    ("sign", {"login"}), ("people in", {"login"}), ('"people sign"', set()), ('"sign people"', {"login"}),
    ("session_store", {"login"}), ("store", {"login"}), ("src/auth", {"login"}), ("auth/store", set()),
    ("session_store.py", {"login"}), ("parseToken", {"login"}), ("parsetoken", {"login"}), ("token", {"login"}),
    ("quart*", {"report", "ask"}), ("quart", set()), ("turquoise", {"report", "ask"}), ("warmed", {"login"}),
    ("connect host.example.com", {"login"}), ("httpclient", {"login"}), ("8443", {"login"}), ("timeout", {"login"}),
    ("currency", {"ask"}), ("lisbon", {"ask"}), ("margins", {"report"}), ("q3_margins", {"report"}), ("fortytwo", {"report"}),
    ("type:workflow", {"sprint"}), ("type:task", {"login", "report", "deploy"}), ("workflow:sprint type:ask", {"ask"}),
    ("task:report", {"report", "ask"}), ("role:writer type:task", {"report"}), ("agent:bob-2", {"report"}),
    ("agent:eve margins", {"report"}), ("agent:bob*", {"report"}), ("status:completed", {"report"}),
    ("status:answered", {"ask"}), ("failure:timeout", {"login"}), ("type:task -status:open", {"report"}),
    ("type:task -sign", {"report", "deploy"}), ('type:task -"sign people" -role:writer', {"deploy"}),
    ("It's 'quoted' \\", {"deploy"}), ("100%", {"deploy"}), ("nothing of the kind", set()), ("http://x", set()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what"), FOUND)
async def test_what_was_said_is_found(connection: Connection, text: str, what: set[str]) -> None:
    assert await found(connection, text) == what


async def test_a_hit_says_what_it_is_and_shows_the_place(connection: Connection) -> None:
    (hit,), _ = await search(connection, parse("httpclient host"))
    assert (hit.type, hit.workflow, hit.task, hit.status, hit.role, hit.where) == (
        "task", "sprint", "login", "open", "coder", "error")  # fmt: skip
    assert hit.title == "Sign people in"
    assert hit.snippet[1::2] == ["HttpClient", "host"]
    assert "".join(hit.snippet) == "timeout: no answer\nat HttpClient.connect(host.example.com:8443)"


async def test_a_title_counts_more_than_a_description(connection: Connection) -> None:
    hits, _ = await search(connection, parse("deploy OR".replace(" OR", "")))
    assert [hit.task for hit in hits] == ["deploy"]
    hits, _ = await search(connection, parse("report"))
    assert hits[0].task == "report"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing to look for"), ("-only", "nothing to look for"), ("* ' & | ! ()", "nothing to look for"),
        ("status:running", "status is one of open, "), ("type:thing", "type is one of workflow, "),
        ("failure:oops", "failure is one of "), ("x" * 1001, "at most 1000 characters"), ("x " * 33, "at most 32 terms"),
    ],
)  # fmt: skip
def test_a_query_that_means_nothing_says_so(text: str, why: str) -> None:
    with pytest.raises(BadQuery, match=why):
        parse(text)


TYPED = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ['"', "-", "*", ":", "'", "\\", "&", "|", "!", "<->", "(", ")", ":*", "task:", 'role:"', " ", "a"]
        ),
    )
).map("".join)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TYPED)
async def test_no_query_is_an_error_of_postgres(connection: Connection, text: str) -> None:
    try:
        query = parse(text)
    except BadQuery:
        return
    hits, _ = await search(connection, query)
    assert all(isinstance(hit, Hit) for hit in hits)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
async def test_any_text_is_found_by_itself(connection: Connection, text: str) -> None:
    """What is indexed and what is looked for are cut into the same words."""
    clean = text.replace('"', " ")
    try:
        query = parse(f'"{clean}"')
    except BadQuery:
        assert not list(words(clean)) or len(clean) > 998
        return
    sql = "SELECT to_tsvector('simple', %(text)s) @@ query OR numnode(query) = 0 FROM to_tsquery('simple', %(query)s) AS query"
    found = await connection.execute(sql, {"text": lexed(clean), "query": query.words})
    assert await found.fetchone() == (True,)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
async def test_documents_equal_the_fold_of_the_domain_at_every_position(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head, fold = (await record(ledger, history(Random(seed), 3, steps)))[-1], Fold(ledger)

        async def stands(position: int) -> None:
            wanted = {}
            for state in (await fold.to(position)).values():
                status = "open" if state.status in ("queued", "running") else state.status
                wanted[state.id, "", ""] = status, ""
                for name, task in state.tasks.items():
                    status = task.status if task.status in CLOSED else "open"
                    wanted[state.id, name, ""] = status, task.spec.agent_role
                wanted |= {(state.id, ask.task, name): (ask.state, None) for name, ask in state.asks.items()}
            async with connections.connection() as connection:
                sql = "SELECT workflow, task, name, status, CASE WHEN type <> 'ask' THEN role END FROM search_documents"
                rows = await (await connection.execute(sql)).fetchall()
                assert {row[:3]: row[3:] for row in rows} == wanted
                sizes_of = await connection.execute(
                    "SELECT max((SELECT sum(length(t->>1)) FROM json_array_elements(texts) t)) FROM search_documents"
                )
                assert (await sizes_of.fetchone() or [0])[0] <= DOCUMENT_CHARACTERS

        view = Projection(connections, Search())
        await projected(view, Sliced(ledger, sizes, stands), head)
        in_slices = await tables(connections, ["search_documents"])
        await view.rebuild()
        await projected(view, ledger, head)
        assert await tables(connections, ["search_documents"]) == in_slices


MANY = """INSERT INTO search_documents
SELECT 100 + n, n, 'task', 'w', 't' || n, '', 'task ' || n, 'open', 'coder', '[]', '[]', '[["description", "some text"]]',
       ('''task'':1A ''n' || n || ''':2A ''text'':4C ''type:task''' || CASE n %% 7 WHEN 0 THEN ' ''week'':5' ELSE '' END)::tsvector
FROM generate_series(1, %(many)s) AS n"""


async def test_pages_are_whole_and_in_order_though_documents_come_meanwhile(connection: Connection) -> None:
    await connection.execute(MANY, {"many": 2_500})
    seen, after = list[str](), Cursor()
    while True:
        hits, following = await search(connection, parse("text type:task -deploy -login"), limit=333, after=after)
        seen += [hit.task or "" for hit in hits]
        if following is None:
            break
        after = Cursor.read(str(following))
        await connection.execute(
            "INSERT INTO search_documents SELECT 9000 + %s, position, type, workflow, task || 'x', name, title, status, role,"
            " agents, failures, texts, words FROM search_documents WHERE task = 't1'", (len(seen),),
        )  # fmt: skip
    assert sorted(seen) == sorted(f"t{n}" for n in range(1, 2_501))


@pytest.mark.parametrize("text", ["n77", "text", "week", "task text", "type:task -n5", "week n7*", '"text n7"'])
async def test_a_query_goes_through_an_index(connection: Connection, text: str) -> None:
    """Among the newest through either; among all, which is only for what few of the newest have, that of the words."""
    await connection.execute(MANY, {"many": 20_000})
    await connection.execute("ANALYZE search_documents")
    for least in (1, 19_500):
        given = {**parse(text)._asdict(), "window": 1_000, "limit": 21, "least": least, "newest": 20_100,
                 "rank": 2**60, "number": 2**60}  # fmt: skip
        find = SQL["find_newest" if least > 1 else "find_all"]
        async with connection.transaction():
            await connection.execute(SQL["plan"], {"bitmaps": "off" if least > 1 else "on"})
            rows = await (await connection.execute("EXPLAIN " + find, given, prepare=False)).fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan" not in plan, plan
        assert least == 1 or "Index Scan using search_documents_pkey" in plan, plan
        assert least > 1 or "Bitmap Index Scan on search_words" in plan, plan


@given(text=st.text(max_size=600), word=st.text("ab", min_size=1, max_size=2))
def test_a_snippet_is_a_part_of_the_text_with_what_was_looked_for(text: str, word: str) -> None:
    count, pieces = snippet(text, [Term((word,))])
    shown = "".join(pieces).removeprefix("…").removesuffix("…")
    assert shown in text or text.startswith("…") or text.endswith("…")
    assert len(shown) <= SNIPPET_CHARACTERS + 1
    assert {piece.lower() for piece in pieces[1::2]} <= {word}
    assert bool(pieces[1::2]) == bool(count) == any(it.text == word for it in words(text))


@given(text=st.text())
def test_words_stand_where_they_say(text: str) -> None:
    for word in words(text):
        assert text[word.start : word.end].lower() == word.text
    assert {word.text for word in words(text)} == set(lexed(text).split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("parse_config-file", "parse config file"), ("parseConfigFile", "parse config file parseconfigfile"),
        ("HTTPServer2Go", "http server2 go httpserver2go"), ("/usr/lib/x.so.1", "usr lib x so 1"),
        ("ÄRGER über", "ärger über"), ("错误a", "错 误 a"), ("--force", "force"), ("", ""),
    ],
)  # fmt: skip
def test_identifiers_have_parts(text: str, found: str) -> None:
    assert lexed(text) == found
