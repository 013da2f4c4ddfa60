"""One place to run the pipeline in, for all tests of a process."""

from collections.abc import Iterator

import pytest
from kfp_here import Cluster, cluster_here


@pytest.fixture(scope="session")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def cluster(_place: Cluster) -> Iterator[Cluster]:
    with cluster_here(_place):
        yield _place
    _place.unavailable = set()
