"""One cluster for all tests of this folder, where the machine can have one."""

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, running_cluster, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started
