"""Tables as people have them, read once into typed columns: files, forms of cells, stored types."""

from autometa.tasks.reading.applying import Conformed, conform
from autometa.tasks.reading.cells import as_text
from autometa.tasks.reading.deciding import Decision, decide
from autometa.tasks.reading.files import TABLE_SUFFIXES, Table, is_table, read_table, rows_of, stem
from autometa.tasks.reading.naming import match_names, split_names
from autometa.tasks.reading.remarks import Remark, joined
from autometa.tasks.reading.types import ColumnType, ReadOptions, Role

__all__ = [
    "TABLE_SUFFIXES",
    "ColumnType",
    "Conformed",
    "Decision",
    "ReadOptions",
    "Remark",
    "Role",
    "Table",
    "as_text",
    "conform",
    "decide",
    "is_table",
    "joined",
    "match_names",
    "read_table",
    "rows_of",
    "split_names",
    "stem",
]
