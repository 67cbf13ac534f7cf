"""Tasks and suites: data, splits, encoding, files and the catalog of named suites."""

from autometa.tasks import catalog
from autometa.tasks.encoder import Encoder, ImageEncoder, TableEncoder
from autometa.tasks.files import load_suite
from autometa.tasks.suite import Rows, TaskSuite
from autometa.tasks.task import Task, task_numbers

__all__ = [
    "Encoder",
    "ImageEncoder",
    "Rows",
    "TableEncoder",
    "Task",
    "TaskSuite",
    "catalog",
    "load_suite",
    "task_numbers",
]
