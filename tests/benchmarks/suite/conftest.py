import pytest

from benchmarks.suite import scaffold
from esper_env.tasks import TASKS


@pytest.fixture
def cells():
    """The suite's own task, for as long as the test lasts: others go through the table of tasks."""
    scaffold.register()
    return scaffold.TASK


@pytest.fixture(autouse=True)
def _leave_the_tasks_as_they_were():
    yield
    TASKS.pop(scaffold.NAME, None)
