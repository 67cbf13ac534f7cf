"""Tasks and suites: data, splits, encoding, files and the catalog of named suites."""

from autometa.tasks import catalog
from autometa.tasks.encoder import Encoder, TableEncoder
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.episodeset import EpisodeRows, EpisodeSet
from autometa.tasks.episodic import EpisodicSuite, load_saved
from autometa.tasks.files import load_suite
from autometa.tasks.images import ImageEncoder
from autometa.tasks.suite import Rows, TaskSuite
from autometa.tasks.task import Task, task_numbers

__all__ = [
    "Encoder",
    "EpisodeRows",
    "EpisodeSet",
    "EpisodeShape",
    "EpisodicSuite",
    "ImageEncoder",
    "Rows",
    "TableEncoder",
    "Task",
    "TaskSuite",
    "catalog",
    "load_saved",
    "load_suite",
    "task_numbers",
]
