"""Tasks: data, host and training budget, one row each."""

from esper_env.tasks.table import TASKS, Task, find_task, read_files, register_task

__all__ = ["TASKS", "Task", "find_task", "read_files", "register_task"]
