"""One Prefect server for all tests of the session, since it takes twenty seconds to start."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import GPU


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        with get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
        yield
