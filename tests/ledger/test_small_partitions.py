"""Every promise of append, order, reading and idempotency again, in partitions so small that all histories cross their
borders: the very same tests, on other tables."""

import pytest
from appends import partitioned
from test_append import *  # noqa: F403
from test_faults import (  # noqa: F401
    test_a_caller_cancelled_in_the_middle_can_always_find_out,
    test_an_answer_lost_after_the_commit_is_found_out,
)
from test_follow import (  # noqa: F401
    test_a_follower_behind_the_window_in_memory_reads_postgres,
    two,
)
from test_immutable import superuser, test_update_delete_and_truncate_are_refused  # noqa: F401
from test_model import *  # noqa: F403
from test_order import *  # noqa: F403
from test_reading import *  # noqa: F403

PARTITION_EVENTS = 7


@pytest.fixture
def postgres_url(postgres_url: str) -> str:
    return partitioned(postgres_url, PARTITION_EVENTS)
