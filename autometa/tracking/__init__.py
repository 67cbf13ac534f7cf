"""MLflow tracking: one run a search, one child run a trial, written beside the search.

The methods of `Tracker` only queue a record; one thread merges what is queued and writes it with
`log_batch`. MLflow (about two seconds to import, three more to create its database) is loaded by
that thread, so `import autometa.tracking` is quick. Nothing here raises once `open` has returned:
what cannot be written waits in `<home>/outbox/<study>.jsonl` and is sent later.

Runs are looked up by their tags before they are created: the search by `study_name` and
`autometa.role = search` (and `autometa.study_id`, where one is given), a trial by its parent and
`trial_number`. So a resumed search goes on in the same runs.
"""

from autometa.tracking.places import default_uri, tracking_place
from autometa.tracking.records import task_key
from autometa.tracking.tracker import NullTracker, Tracker, delete_runs
from autometa.tracking.ui import UiServer, open_ui, start_ui

__all__ = [
    "NullTracker",
    "Tracker",
    "UiServer",
    "default_uri",
    "delete_runs",
    "open_ui",
    "start_ui",
    "task_key",
    "tracking_place",
]
