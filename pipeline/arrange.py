"""A file as series side by side on a grid of steps, for a backtest; everything that is wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from models.grid import DAY, Grid, Matrix, beside, matrix
from pipeline.aggregates import AGGREGATES, Mark, SoFar
from pipeline.files import FORMATS, NAMELESS, NO_VALUE, UNREADABLE, content, instants, nameless
from pipeline.quantities import instant, plain, time_format
from pipeline.settings import SettingsError

SHOWN = 3  # faults of one kind that are named; the rest is counted
ORDINAL = 719_163  # 1970-01-01, where 0001-01-01 is 1


class Asked(NamedTuple):
    """How a file is to be read."""

    file: Path
    time: tuple[str, ...] = ("at",)  # columns; several are joined by a space
    time_format: str = "rfc3339"  # s, ms, us, ns; strptime's; ordinal: days, 0001-01-01 is 1
    series: tuple[str, ...] | None = None  # columns, joined by /; (): none; None: `series` if there is one
    values: tuple[str, ...] = ()  # columns; (): all that hold numbers
    wide_rows: bool = False
    start: str | None = None
    aggregate: str | None = None  # of several values a step; None: the last row counts
    covariates: tuple[str, ...] = ()  # columns that are known beside the values


class Arranged(NamedTuple):
    """A file that has been read."""

    matrix: Matrix
    notes: tuple[str, ...]  # what whoever reads the figures should know


class Faults(list[str]):
    """What is wrong with a file or with how it is to be read."""

    def check(self) -> None:
        """Raises SettingsError that names all of them."""
        if self:
            raise SettingsError("\n  ".join(["this cannot be backtested:", *self]))

    def of_rows(self, what: str, rows: Sequence[int], found: pl.Series) -> None:
        """One fault of many rows (from 0), of which the first are named with what is found there."""
        named = ", ".join(f"row {row + 1}: {plain(found[row])}" for row in rows[:SHOWN])
        more = f", and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        self.append(f"{what} ({named}{more}); the first row below the header is row 1")


def arrange(asked: Asked, on: Grid) -> Arranged:
    """The file as a matrix. Raises SettingsError with everything that is wrong with it."""
    faults = Faults()
    table = tabular(asked.file, faults)
    faults.check()
    assert table is not None
    return wide_rows(asked, table, on, faults) if asked.wide_rows else long_rows(asked, table, on, faults)


def tabular(file: Path, faults: Faults) -> pl.DataFrame | None:
    """All of a file; fields of nested values are columns `outer.inner`."""
    kind = FORMATS.get(Path(file.name.removesuffix(".gz")).suffix.lower())
    if kind is None:
        faults.append(f"{file}: what is it? allowed: {', '.join(FORMATS)}, also with .gz")
        return None
    try:
        data = content(str(file))
        if kind == "csv":
            return pl.read_csv(data, infer_schema_length=None, null_values=list(NO_VALUE))
        return flat(pl.read_parquet(data) if kind == "parquet" else pl.read_ndjson(data, infer_schema_length=None))
    except UNREADABLE as error:
        faults.append(f"{file}: {error.strerror or error if isinstance(error, OSError) else error}")
    except (pl.exceptions.PolarsError, pl.exceptions.ComputeError) as error:
        faults.append(f"{file}: not {kind}: {str(error).splitlines()[0]}")
    return None


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """Nested values as columns of their own."""
    while nested := [name for name, kind in table.schema.items() if isinstance(kind, pl.Struct)]:
        inner = [pl.col(n).struct.field(f).alias(f"{n}.{f}") for n in nested for f in table[n].struct.fields]
        table = table.with_columns(inner).drop(nested)
    return table


def long_rows(asked: Asked, table: pl.DataFrame, on: Grid, faults: Faults) -> Arranged:
    """A time a row; one series, or one a column, or one a value of the series' columns, or one for each two of these."""
    series = asked.series if asked.series is not None else ("series",) if "series" in table.columns else ()
    for option, wanted in {"--time": asked.time, "--series": series, "--values": asked.values, "--covariates": asked.covariates}.items():
        missing = [plain(name) for name in wanted if name not in table.columns]
        if missing:
            faults.append(f"no column {', '.join(missing)} ({option}); there are {', '.join(map(plain, table.columns))}")
    taken = {*asked.time, *series, *asked.covariates}
    values = asked.values or tuple(name for name, kind in table.schema.items() if kind.is_numeric() and name not in taken)
    if not values:
        faults.append("no column of numbers; say with --values which columns hold them")
    if not len(table):
        faults.append("no rows")
    faults.check()
    at = times(table, asked, faults)
    numbers, known = ([column(table[name], faults) for name in names] for names in (values, asked.covariates))
    ids = identified(table, series, faults)
    faults.check()
    names = sorted(set(ids.to_list()))
    codes = ids.replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_numpy()
    cells, places = np.tile(on.cells(at), len(values)), np.concatenate([codes * len(values) + k for k in range(len(values))])
    flat_numbers = np.concatenate(numbers)
    rows, spots = cells, places
    if asked.aggregate is not None:
        rows, spots, flat_numbers = joined(cells, places, np.tile(at, len(values)), flat_numbers, asked.aggregate)
    arranged = gridded(
        rows,
        spots,
        flat_numbers,
        [called(name, value, several=len(values) > 1) for name in names for value in values],
        faults=faults,
        height=len(table),
        columns=len(values) if len(values) > 1 else 0,
    )
    return arranged._replace(matrix=beside(arranged.matrix, cells, places, [np.tile(one, len(values)) for one in known]))


def joined(
    cells: np.ndarray, codes: np.ndarray, at: np.ndarray, numbers: np.ndarray, aggregate: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (M,) of which many may be of one cell of a series, as a row a cell.

    >>> rows = np.array([7, 7, 8]), np.array([0, 0, 0]), np.array([71, 72, 80]), np.array([1.0, 2.0, 5.0])
    >>> [column.tolist() for column in joined(*rows, "mean")]
    [[7, 8], [0, 0], [1.5, 5.0]]
    """
    how = AGGREGATES[aggregate]
    known = np.flatnonzero(~np.isnan(numbers))
    order = known[np.lexsort((at[known], codes[known]))]
    found: dict[tuple[int, int], SoFar] = {}
    rows = zip(codes[order].tolist(), cells[order].tolist(), at[order].tolist(), numbers[order].tolist(), strict=True)
    for row, (code, cell, when, value) in enumerate(rows):
        how.add(found.setdefault((code, cell), []), when, row, value, settled=when)
    out: list[tuple[int, int, float]] = []
    before: tuple[tuple[int, int], Mark] | None = None
    for (code, cell), so_far in found.items():
        value, mark = how.close(so_far, before[1] if before is not None and before[0] == (code, cell - 1) else None)
        before = None if mark is None else ((code, cell), mark)
        if value is not None:
            out.append((cell, code, value))
    places = np.array([row[:2] for row in out], np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1], np.array([row[2] for row in out], np.float64)


def called(series: str, value: str, *, several: bool) -> str:
    """The name of a series of a column.

    >>> called("pump", "load", several=True), called("pump", "load", several=False), called("", "load", several=False)
    ('pump/load', 'pump', 'load')
    """
    return value if not series else f"{series}/{value}" if several else series


def identified(table: pl.DataFrame, series: tuple[str, ...], faults: Faults) -> pl.Series:
    """The series of every row; the empty name if there is only one."""
    if not series:
        return pl.repeat("", len(table), dtype=pl.String, eager=True)
    ids = table.select(pl.concat_str([pl.col(name).cast(pl.String) for name in series], separator="/")).to_series()
    empty = np.flatnonzero(ids.is_null().to_numpy()).tolist()
    if empty:
        faults.of_rows(f"no series in {'/'.join(map(plain, series))}", empty, ids)
    return ids


def times(table: pl.DataFrame, asked: Asked, faults: Faults) -> np.ndarray:
    """The time of every row, in microseconds since the epoch."""
    found = table[asked.time[0]]
    if len(asked.time) > 1:
        found = table.select(pl.concat_str([pl.col(name).cast(pl.String) for name in asked.time], separator=" ")).to_series()
    if found.dtype in (pl.Date, pl.Datetime):
        read = found.cast(pl.Datetime("us")).cast(pl.Int64)
    elif asked.time_format == "ordinal":
        read = (found.cast(pl.Int64, strict=False) - ORDINAL) * DAY
    else:
        read = spelt(found, asked.time_format, faults)
    wrong = np.flatnonzero(read.is_null().to_numpy()).tolist()
    if wrong:
        option = ",".join(asked.time)
        faults.of_rows(f"{plain(option)} is no time as --time-format {asked.time_format} has it", wrong, found)
    return np.asarray(read.fill_null(0).to_numpy())


def spelt(found: pl.Series, form: str, faults: Faults) -> pl.Series:
    """Texts or numbers as microseconds since the epoch; null where one cannot be read."""
    try:
        read = instants(time_format(form))
    except ValueError as wrong:
        faults.append(f"--time-format {plain(form)}: {str(wrong).replace('ns, or', 'ns, ordinal, or')}")
        return pl.repeat(0, len(found), dtype=pl.Int64, eager=True)
    return pl.Series(found.name, [read(said) for said in found.to_list()], dtype=pl.Int64, strict=False)


def column(found: pl.Series, faults: Faults) -> np.ndarray:
    """Numbers (M,) float64, NaN where there is none."""
    if found.dtype.is_numeric() or found.dtype in (pl.Boolean, pl.Null, pl.String):
        numbers = found.cast(pl.Float64, strict=False)
    else:
        numbers = pl.repeat(None, len(found), dtype=pl.Float64, eager=True)
    no_number = np.flatnonzero((numbers.is_null() & found.is_not_null()).to_numpy()).tolist()
    if no_number:
        faults.of_rows(f"{plain(found.name)} is no number", no_number, found)
    out = numbers.to_numpy().astype(np.float64)
    infinite = np.flatnonzero(np.isinf(out)).tolist()
    if infinite:
        faults.of_rows(f"{plain(found.name)} is not finite", infinite, found)
    return np.asarray(out)


def wide_rows(asked: Asked, table: pl.DataFrame, on: Grid, faults: Faults) -> Arranged:
    """A series a row: its name, then its values, oldest first; the missing ends of rows are no values."""
    first = 0
    if asked.covariates:
        faults.append("--wide-rows has no columns of covariates; allowed: none")
    if asked.start is None:
        faults.append("--wide-rows needs --start, the time of the first column of values")
    else:
        try:
            first = instant(asked.start)
        except ValueError as wrong:
            faults.append(f"--start {plain(asked.start)}: {wrong}")
    if not len(table) or len(table.columns) < 2:  # noqa: PLR2004  a name and a value
        faults.append("no rows of a name and values")
    if nameless(table.columns):
        faults.append(NAMELESS)
    faults.check()
    names = table[table.columns[0]].cast(pl.String)
    twice = np.flatnonzero((~names.is_first_distinct() | names.is_null()).to_numpy()).tolist()
    if twice:
        faults.of_rows("a row has no name, or that of a row before it", twice, names)
    numbers = [column(table[name], faults) for name in table.columns[1:]]
    faults.check()
    values = np.stack(numbers)
    values = values[: int(np.flatnonzero(~np.isnan(values).all(1)).max(initial=-1)) + 1]
    if not len(values):
        faults.append("no values")
    faults.check()
    found = Matrix(int(on.cells(np.array([first]))[0]), values, tuple(names.to_list()))
    return Arranged(found, notes(found))


def gridded(
    cells: np.ndarray, codes: np.ndarray, numbers: np.ndarray, names: list[str], *, faults: Faults, height: int, columns: int
) -> Arranged:
    """A long table, (M,) each, as a matrix."""
    try:
        found, repeat = matrix(cells, codes, numbers, names)
    except ValueError as wrong:
        faults.append(str(wrong))
        faults.check()
        raise
    said = []
    if repeat.total:
        where = ", ".join(str(row % height + 1) for row in repeat.where)
        said.append(f"{repeat.total:,} values were overruled by a later row for the same step (rows {where}{' ...' * (repeat.total > 5)})")  # noqa: PLR2004  as many as a Repeat names
    return Arranged(found._replace(columns=columns), (*said, *notes(found)))


def notes(found: Matrix) -> tuple[str, ...]:
    """Gaps and series without a value."""
    known = ~np.isnan(found.values)
    empty = [name for name, count in zip(found.names, known.sum(0).tolist(), strict=True) if not count]
    said = []
    if empty:
        said.append(f"{len(empty):,} series without a value: {', '.join(plain(name) for name in empty[:SHOWN])}")
    inside = (np.maximum.accumulate(known, 0) & np.maximum.accumulate(known[::-1], 0)[::-1] & ~known).sum()
    if inside:
        said.append(
            f"{int(inside):,} of {known.size:,} values are missing between a series' first and its last; nothing is put in their place"
        )
    return tuple(said)


def listed(text: str | None) -> tuple[str, ...]:
    """Names between commas.

    >>> listed("a, b"), listed(None)
    (('a', 'b'), ())
    """
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def shown(value: Any) -> str:
    """A number for people, or a dash.

    >>> shown(0.12345), shown(None)
    ('0.1235', '-')
    """
    return "-" if value is None else f"{value:,.4g}"
