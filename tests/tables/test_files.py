"""Files as people have them: letters, separators, comments, packed, Excel; names of columns."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import DataError
from autometa.tasks import TaskSuite, load_suite
from autometa.tasks.reading import ReadOptions, read_table, split_names

ROWS = 60


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "größe": np.round(rng.normal(size=ROWS), 3),
            "city": ["Zürich", "Köln", "Oslo"] * (ROWS // 3),
            "y": np.round(rng.normal(size=ROWS), 3),
        }
    )


def lines(separator: str = ",", frame: pd.DataFrame | None = None) -> str:
    return (table() if frame is None else frame).to_csv(index=False, sep=separator)


def same(path, **options) -> TaskSuite:
    """The file's suite, which has to be that of the table in memory."""
    suite = load_suite(path, target="y", **options)
    torch.testing.assert_close(suite.x, TaskSuite.from_frame(table(), target="y").x, rtol=0, atol=0)
    return suite


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "data"])
def test_separators_are_found(separator, suffix, tmp_path):
    path = tmp_path / f"t.{suffix}"
    path.write_text(lines(separator))
    same(path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_comma_in_one_name(separator, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(lines(separator).replace("city", "city, of birth", 1))
    suite = load_suite(path, target="y")
    assert suite.encoder.source == ("größe", "city, of birth")
    assert "between its cells" in suite.notes[0]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16-LE"),
     ("utf-16-be", "UTF-16-BE"), ("cp1252", "cp1252")],
)  # fmt: skip
def test_letters(encoding, said, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(lines().encode(encoding))
    suite = same(path)
    assert [said in remark for remark in suite.notes] == ([] if said is None else [True])
    assert "größe" in suite.encoder.source
    same(path, encoding=encoding)


def test_letters_that_the_user_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(lines().replace("Zürich", "Łódź").encode("cp1250"))
    suite = load_suite(path, target="y", encoding="cp1250")
    assert "city=Łódź" in suite.encoder.features
    assert not suite.notes
    with pytest.raises(DataError, match=r"not a table of text .*`--encoding` says"):
        load_suite(path, target="y", encoding="utf-8")
    with pytest.raises(DataError, match="Found `encoding = klingon`"):
        load_suite(path, target="y", encoding="klingon")


def zipped(data: bytes) -> bytes:
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("t.csv", data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zip", zipped)],
)
def test_packed(suffix, pack, tmp_path):
    path = tmp_path / f"t.csv.{suffix}"
    path.write_bytes(pack(lines().encode()))
    assert same(path).name == "t"
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="cannot be read"):
        load_suite(path, target="y")


def test_excel(tmp_path):
    path = tmp_path / "t.xlsx"
    frame = table()
    frame["code"] = ["01", "02", "NA"] * (ROWS // 3)
    with pd.ExcelWriter(path) as book:
        frame.to_excel(book, sheet_name="data", index=False)
        frame.to_excel(book, sheet_name="other", index=False)
    suite = load_suite(path, target="y")
    other = TaskSuite.from_frame(frame, target="y")
    torch.testing.assert_close(suite.x, other.x, rtol=0, atol=0)
    assert suite.notes[0] == "`t.xlsx` has 2 sheets; the first, `data`, is read."
    assert "`NA` read as values among texts" in suite.notes[1]
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not a readable Excel table"):
        load_suite(path, target="y")


@pytest.mark.parametrize("before", ["\n\n", ",,\n", "sep=,\n", '"sep=,"\r\n', "\r\n"])
def test_lines_before_the_names(before, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes((before + lines()).encode())
    assert not same(path).notes


def test_a_first_line_that_names_the_separator(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sep=;\n" + lines(";").replace(".", ","))
    assert "decimal commas" in same(path).notes[-1]


def test_comments(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("# made by hand\n#\n" + lines() + "# the end\n")
    assert same(path).notes == (
        "2 lines of comments before the names left out.",
        "1 line among the rows left out: `#` first.",
    )
    path.write_text("# made by hand\n\n" + lines())
    assert same(path).notes == ("1 line of comments before the names left out.",)
    numbers = "# a b\n" + "".join(f"{i % 7} {i % 5}\n" for i in range(60))
    path.write_text(numbers)  # as numpy.savetxt writes names
    assert load_suite(path, target="b").encoder.source == ("a",)


def test_names_of_rows(tmp_path):
    frame = table()
    path = tmp_path / "t.csv"
    text = frame.to_csv(index=True)
    path.write_text(text)
    assert same(path).notes == (
        "The first column has no name and counts the rows; it is left out.",
    )
    path.write_text(text[1:])  # as R's write.table does
    same(path)


def test_columns_without_a_name_or_a_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{line},,\n" for line in lines().split("\n") if line))
    assert same(path).notes == ("2 empty columns without a name left out.",)
    head, rest = lines().split("\n", 1)
    path.write_text(head + "\n" + "".join(f"{line},\n" for line in rest.split("\n") if line))
    assert same(path).notes == ("1 empty column without a name left out.",)


@pytest.mark.parametrize("suffix", ["data", "csv"])
def test_no_line_of_names(suffix, tmp_path):
    path = tmp_path / f"t.{suffix}"
    cells = [f"{i % 5}.5,{i % 3},{'ab'[i % 2]}\n" for i in range(ROWS)]
    path.write_text("".join(cells))
    suite = load_suite(path, target="column 1")
    assert sum(suite.counts.values()) == ROWS
    assert suite.encoder.source == ("column 2", "column 3")
    assert "has no line of names" in suite.notes[0]


def test_a_first_line_of_numbers_is_named(tmp_path):
    path = tmp_path / "t.csv"
    numbers = np.random.default_rng(0).normal(size=(ROWS, 3)).round(6)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in numbers))
    name = str(numbers[0, 0])
    suite = load_suite(path, target=name)
    assert sum(suite.counts.values()) == ROWS - 1
    said = f"The first line of `t.csv` is taken for names, though it holds `{name}`."
    assert suite.notes[0] == said


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_of_two_signs_that_fit_it_is_not_the_comma(separator, tmp_path):
    path = tmp_path / "t.csv"
    rows = "".join(f"{i % 9},5{separator}{i}\n" for i in range(ROWS))
    path.write_text(f"heat, dry{separator}y\n{rows}")
    assert list(read_table(path).frame.columns) == ["heat, dry", "y"]


def test_rows_of_other_widths_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(lines() + "1,2,3,4,5\n")
    with pytest.raises(DataError, match="more fields than its first line has names"):
        load_suite(path, target="y")


class TestNames:
    def test_blanks_at_their_ends(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text(lines().replace("city", " city ", 1).replace("y\n", "y \n", 1))
        same(path)
        frame = table().rename(columns={"city": " city", "y": "y "})
        assert TaskSuite.from_frame(frame, target=" y").task_names == ("y",)

    def test_commas_and_signs(self, tmp_path):
        frame = pd.concat([table()] * 2, axis=1).set_axis(
            ["a", "b,c", "x=1", "b", "kind", "d"], axis=1
        )
        frame.to_csv(tmp_path / "t.csv", index=False)
        suite = load_suite(tmp_path / "t.csv", targets="a,b,c,x=1", drop="d,kind")
        assert suite.task_names == ("a", "b,c", "x=1")
        assert suite.encoder.source == ("b",)
        suite = load_suite(
            tmp_path / "t.csv", targets=["b,c", "x=1"], metrics={"x=1": "rmse", "b,c": "accuracy"}
        )
        assert [task.metric for task in suite.tasks] == ["accuracy", "rmse"]

    def test_the_longest_comes_first(self):
        known = ["a", "b", "a,b", "c, d", "e"]
        assert split_names("a,b", known) == ["a,b"]
        assert split_names("a,b,e", known) == ["a,b", "e"]
        assert split_names("e, c, d ,b", known) == ["e", "c, d", "b"]
        assert split_names(["a", "b"], known) == ["a", "b"]
        assert split_names("x,e", known) == ["x", "e"]


def test_options_are_checked():
    with pytest.raises(DataError, match=r"`decimal` should be `.` or `,`. Found `decimal = ;`"):
        ReadOptions.of(decimal=";")
    with pytest.raises(DataError, match="`sep` should be one character"):
        ReadOptions.of(sep=";;")
    with pytest.raises(DataError, match="Found `date_order = ymd`"):
        ReadOptions.of(date_order="ymd")
    assert ReadOptions.of(sep="tab", missing=-999) == ReadOptions("\t", missing=("-999",))


class TestParquet:
    def test_categories_of_numbers(self, tmp_path):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"x": rng.normal(size=ROWS), "zone": rng.integers(0, 3, ROWS)})
        frame["class"] = [0, 1, 2] * (ROWS // 3)
        typed = frame.astype({"zone": "category", "class": "category"})
        typed.to_parquet(tmp_path / "t.parquet")
        suite = load_suite(tmp_path / "t.parquet", target="class")
        assert suite.tasks[0].kind == "multiclass"
        assert suite.tasks[0].classes == (0, 1, 2)
        assert {"zone=0", "zone=1", "zone=2"} <= set(suite.encoder.features)
        memory = TaskSuite.from_frame(typed, target="class")
        assert memory.fingerprint == suite.fingerprint
        frame.to_parquet(tmp_path / "plain.parquet")
        assert load_suite(tmp_path / "plain.parquet", target="class").kinds == ("regression",)

    def test_categories_with_empty_cells(self, tmp_path):
        frame = table().assign(zone=pd.Categorical([1, 2, None] * (ROWS // 3)))
        frame.to_parquet(tmp_path / "t.parquet")
        found = read_table(tmp_path / "t.parquet").frame
        assert isinstance(found["zone"].dtype, pd.CategoricalDtype)
        assert found["zone"].isna().sum() == ROWS // 3
