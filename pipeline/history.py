"""What has been, from the topic or from files, as a retraining reads it: once, in bounded memory, and kept for whoever goes on with it.

A topic goes through the stream's own decode and gather: what is late, rejected, repeated or forgotten there is so here. Where its records
end is fixed at the start. Columns of files are read as `replay` reads them, a batch at a time; several samples a step go through gather,
too. What comes of either lies in a folder: a value a cell, series by series, and is mapped, not loaded.
"""

from __future__ import annotations

import gc
import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
import xxhash

from models.covariates import planned
from models.past import Past
from pipeline.beside import Known, Samples
from pipeline.configure import config_of, rules_of
from pipeline.decode import LARGEST, Decoder, asked, shape_of
from pipeline.events import NEVER, Admit, Close, Decision, Event, Sample
from pipeline.files import FORMATS, NO_VALUE, File, FileUnreadable, instants
from pipeline.gather import Gather
from pipeline.poller import Poller, starts
from pipeline.quantities import plain, time_format
from pipeline.records import RawBlock, Source
from pipeline.settings import Settings, SettingsError, kafka_options

BATCH = 1 << 20  # rows that are in memory at a time
WAIT_SECONDS = 0.1
VALUES, OUTLOOKS, SERIES, DONE = "values.f64", "outlooks.f16", "series.npz", "history.json"
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


class NoHistory(Exception):  # noqa: N818 - reads as what happened
    """There is nothing to learn from."""


class History(NamedTuple):
    """What there is to learn from, and what is to be said of it."""

    past: Past
    observations: int
    left_out: int  # rows or observations that could not be used
    positions: dict[str, tuple[int, int]]  # topic/partition: first offset, and the one behind the last
    sha256: str  # of the observations


class Reader(Protocol):
    def take(self, source: Source, position: int, limit: int | None) -> RawBlock | None: ...
    def wait(self, seconds: float) -> None: ...


Batch = tuple[pl.Series, np.ndarray, np.ndarray]  # names, cells, values; NaN: not observed


def ends_of(settings: Settings) -> dict[str, tuple[int, int]]:
    """Of every partition where its history begins, and where it ends now (for `read_committed`). Raises what `poller.starts` does."""
    options, own = kafka_options(settings), f"{settings.output.prefix}."
    begin = "earliest" if settings.input.start == "latest" else settings.input.start
    first = starts(options, settings.input.topics, begin, own=own)
    last = starts(options, settings.input.topics, "latest", own=own)
    return {f"{s.topic}/{s.partition}": (first[s], max(last[s], first[s])) for s in sorted(first)}


def of_topic(settings: Settings, positions: Mapping[str, tuple[int, int]], folder: Path, *, told: Callable[[int], None]) -> History:
    """The records between these positions; `told` hears how many have been read, and may raise to stop it. Raises NoHistory, InputError."""
    sources = {Source(name.rpartition("/")[0], int(name.rpartition("/")[2])): range(*ends) for name, ends in positions.items()}
    poller = Poller(kafka_options(settings), wake=lambda: None)
    try:
        return _gathered(settings, poller, {s: ends for s, ends in sources.items() if ends}, folder, told=told, kafka=True)
    finally:
        poller.close()


def of_file(settings: Settings, path: str, folder: Path, *, told: Callable[[int], None]) -> History:
    """A file, a folder or a pattern of them, here or in an object store. Raises SettingsError, FileUnreadable, NoHistory."""
    if settings.series.samples == "many" or settings.input.covariates:
        kind = kind_of(path)
        order = tuple(settings.input.series) or (() if settings.input.values else ("series",))
        file = File(path, kind, tuple(settings.input.at.split(",")), settings.input.at_format, order)  # type: ignore[arg-type]
        reader = file.reader(lambda: None)
        return _gathered(settings, reader, reader.there(), folder, told=told, kafka=False)
    columns = Columns(settings, path)
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    rows = 0
    for said, cells, values in columns.batches():
        table = pl.DataFrame({"name": said, "cell": cells}).filter(pl.Series(~np.isnan(values)))
        for name, first, last in table.group_by("name").agg(low=pl.min("cell"), high=pl.max("cell")).rows():
            low[name], high[name] = min(low.get(name, first), first), max(high.get(name, last), last)
        rows += len(cells)
        told(rows)
    names = sorted(low)
    book = Book(folder, names, np.array([low[n] for n in names], np.int64), np.array([high[n] for n in names], np.int64))
    codes = pl.DataFrame({"name": names, "code": np.arange(len(names))}, schema={"name": pl.String, "code": pl.Int64})
    for some, cells, values in columns.batches():
        at = pl.DataFrame({"name": some}).join(codes, on="name", how="left", maintain_order="left")["code"].fill_null(-1).to_numpy()
        there = ~np.isnan(values)
        book.write(at[there], cells[there], values[there])
    return book.close(positions={}, left_out=columns.left_out)


# Columns of files


def kind_of(path: str) -> str:
    """csv, parquet or ndjson. Raises SettingsError."""
    inside = [str(p) for p in sorted(Path(path).rglob("*")) if p.is_file()] if "://" not in path and Path(path).is_dir() else [path]
    kinds = {FORMATS.get(Path(name.removesuffix(".gz")).suffix.lower()) for name in inside}
    if len(kinds) != 1 or None in kinds:
        raise SettingsError(f"{plain(path)}: what is it? allowed: {', '.join(FORMATS)}, also with .gz, or a folder of one kind of them")
    return str(kinds.pop())


class Columns:
    """The columns of a file that settings name, a batch at a time."""

    def __init__(self, settings: Settings, path: str) -> None:
        self._input, self._step, self._oldest = settings.input, settings.series.step, settings.time.oldest
        self._path, self.left_out = path, 0
        kind = kind_of(path)
        where = str(Path(path) / "**" / "*") if "://" not in path and Path(path).is_dir() and kind != "parquet" else path
        try:
            self._table = (
                pl.scan_csv(where, infer_schema_length=10_000, null_values=list(NO_VALUE))
                if kind == "csv"
                else pl.scan_parquet(where)
                if kind == "parquet"
                else pl.scan_ndjson(where, infer_schema_length=10_000)
            )
            self._schema = self._table.collect_schema()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise FileUnreadable(f"{path}: {str(error).splitlines()[0]}") from error
        given = tuple(self._input.series)
        self._ids = given or (("series",) if self._knows("series") else ())
        self._values = tuple(self._input.values) or (self._input.value,)
        missing = [plain(name) for name in (*self._ids, self._input.at, *self._values) if not self._knows(name)]
        if missing or not (self._ids or self._input.values):
            lacks = f"no column {', '.join(missing)}" if missing else "no column that names the series: say which (input.series)"
            raise SettingsError(f"{plain(path)}: {lacks}; there are {', '.join(map(plain, self._schema.names()))}")
        self._asked = asked(tuple(self._input.include), tuple(self._input.exclude))
        try:
            self._time = instants(time_format(self._input.at_format))
        except ValueError as wrong:
            raise SettingsError(f"input.at_format: {wrong}") from wrong

    def _knows(self, name: str) -> bool:
        kind: Any = self._schema.get(name)
        if kind is not None:
            return True
        outer, *inner = name.split(".")
        kind = self._schema.get(outer)
        for field in inner:
            kind = dict(kind).get(field) if isinstance(kind, pl.Struct) else None
        return kind is not None

    def _column(self, name: str) -> pl.Expr:
        if name in self._schema:
            return pl.col(name)
        outer, *inner = name.split(".")
        found = pl.col(outer)
        for field in inner:
            found = found.struct.field(field)
        return found

    def batches(self) -> Iterator[Batch]:
        """Names, cells and values of rows, in the order of the file; what cannot be used is left out and counted."""
        self.left_out = 0
        ids = [self._column(name).cast(pl.String) for name in self._ids]
        name = pl.concat_str(ids, separator="/") if ids else pl.lit("", pl.String)
        wanted = [
            name.alias("n"),
            self._column(self._input.at).alias("t"),
            *(self._column(v).alias(f"v{k}") for k, v in enumerate(self._values)),
        ]
        try:
            for batch in self._table.select(wanted).collect_batches(chunk_size=BATCH, maintain_order=True, engine="streaming"):
                yield from self._rows(batch)
        except pl.exceptions.PolarsError as error:
            raise FileUnreadable(f"{self._path}: {str(error).splitlines()[0]}") from error

    def _rows(self, batch: pl.DataFrame) -> Iterator[Batch]:
        at = self._times(batch["t"])
        for k, value in enumerate(self._values):
            names = batch["n"]
            if self._input.values:
                names = names + f"/{value}" if self._ids else pl.repeat(value, len(batch), dtype=pl.String, eager=True)
            numbers = batch[f"v{k}"].cast(pl.Float64, strict=False)
            odd = (numbers.is_null() & batch[f"v{k}"].is_not_null()).to_numpy()
            values = numbers.to_numpy().astype(np.float64)
            with np.errstate(invalid="ignore"):
                odd = odd | (np.abs(values) > LARGEST) | (at == NEVER) | names.is_null().to_numpy()
            mine = ~odd
            if self._asked:
                said = names.unique().drop_nulls()
                mine = (
                    mine
                    & names.is_in(said.filter([self._asked(one) for one in said.to_list()]).implode()).fill_null(value=False).to_numpy()
                )
            self.left_out += int(odd.sum())
            yield names.filter(pl.Series(mine)), at[mine] // self._step, values[mine]

    def _times(self, found: pl.Series) -> np.ndarray:
        """(M,) microseconds since the epoch, NEVER where there is no time, or one that no stream would take."""
        form = self._input.at_format
        if found.dtype in (pl.Date, pl.Datetime):
            read = found.cast(pl.Datetime("us")).cast(pl.Int64)
        elif found.dtype.is_integer() and form in UNITS:
            read = found.cast(pl.Int64) * UNITS[form]
        else:  # most times are those of many rows
            said = found.unique()
            read_as = pl.Series([self._time(one) for one in said.to_list()], dtype=pl.Int64, strict=False)
            read = found.replace_strict(said, read_as, return_dtype=pl.Int64)
        at = read.fill_null(NEVER).to_numpy()
        return np.where(at >= self._oldest, at, NEVER)


# Records


def _gathered(
    settings: Settings, reader: Reader, sources: Mapping[Source, range], folder: Path, *, told: Callable[[int], None], kafka: bool
) -> History:
    """Records through decode and gather, to a spool and from there into place."""
    decoder, spool = Decoder(shape_of(settings, kafka=kafka)), Spool(folder, settings.series.step, outlooks_of(settings))
    part = Gather(rules_of(settings, len(sources))._replace(fill=False), tuple(sorted(sources)))
    part.repeat(
        [Decision(source, ends.stop, NEVER) for source, ends in sorted(sources.items())]
    )  # no clock: where a log ends, it holds nobody
    stands = {source: ends.start for source, ends in sources.items()}
    read = 0
    while any(stands[source] < ends.stop for source, ends in sources.items()):
        came = False
        for source, ends in sources.items():
            limit = part.limit(source)
            stop = ends.stop if limit is None else min(limit, ends.stop)
            raw = reader.take(source, stands[source], stop) if stands[source] < stop else None
            if raw is not None and raw.next > raw.first:
                came, read, stands[source] = True, read + len(raw.records), raw.next
                spool.take(part.add(decoder.decode(raw)))
        told(read)
        if not came:
            reader.wait(WAIT_SECONDS)
    spool.take(part.close_all())
    ledger = part.totals()
    said = {f"{s.topic}/{s.partition}": (ends.start, ends.stop) for s, ends in sources.items()} if kafka else {}
    return spool.close(positions=said, left_out=ledger["rejected"] + ledger["late"])


def outlooks_of(settings: Settings) -> Samples | None:
    """None: there are no covariates."""
    config = config_of(settings)
    if not config.covariates:
        return None
    plan = planned(config.covariates, config.ahead, config.horizon)
    return Samples(plan, settings.series.step, config.covariates, config.ahead)


class Spool:
    """Closed cells, written to Parquet as they come: where a series begins and ends is known behind the last."""

    def __init__(self, folder: Path, step: int, outlooks: Samples | None) -> None:
        self._folder, self._step, self._outlooks = folder, step, outlooks
        self._known: list[Known] = []  # their slots are codes
        self._waiting = 0  # numbers in them
        self._told: list[Path] = []
        self._names: list[str] = []
        self._codes: dict[str, int] = {}
        self._of: dict[int, int] = {}  # slot -> code of who has it now
        self._rows = rows()
        self._first, self._last = (np.zeros(0, np.int64) for _ in range(2))  # time of each code's first and last cell
        self._parts: list[Path] = []

    def take(self, events: Sequence[Event]) -> None:
        samples: list[Sample] = []
        for event in events:
            match event:
                case Sample() if self._outlooks is not None:
                    samples.append(event)
                case Admit(slot, name, _):
                    if self._outlooks is not None:
                        self._follow(samples)
                        samples = []
                        self._outlooks.admit(slot)
                    code = self._codes.setdefault(name, len(self._names))
                    if code == len(self._names):
                        self._names.append(name)
                    self._of[slot] = code
                case Close():
                    codes, cells, values = self._rows
                    for slot, cell, value in event.cells:
                        codes.append(self._of[slot])
                        cells.append(cell)
                        values.append(value)
        self._follow(samples)
        if len(self._rows[0]) >= BATCH:
            self._flush()

    def _follow(self, samples: Sequence[Sample]) -> None:
        """Keep what was known at each of them, of whoever has their slots now."""
        if self._outlooks is None or not samples:
            return
        for known in self._outlooks.take(samples):
            codes = np.array([self._of[slot] for slot in known.slot.tolist()], np.int64)
            self._known.append(known._replace(slot=codes))
            self._waiting += known.outlook.size
        if self._waiting >= BATCH:
            self._put_down()

    def _put_down(self) -> None:
        if not self._known:
            return
        path = self._folder / f"told-{len(self._told):05}.npz"
        slot, cell, outlook = (np.concatenate(parts) for parts in zip(*self._known, strict=True))
        np.savez(path, slot=slot, cell=cell, outlook=outlook)
        self._told.append(path)
        self._known, self._waiting = [], 0

    def _flush(self) -> None:
        path = self._folder / f"spool-{len(self._parts):05}.parquet"
        code, at, value = map(np.asarray, self._rows)
        self._grow()
        np.minimum.at(self._first, code, at)
        np.maximum.at(self._last, code, at)
        pl.DataFrame({"code": code, "at": at, "value": value}).write_parquet(path)
        self._parts.append(path)
        self._rows = rows()
        gc.collect()  # a client's cycles hold what it has fetched

    def _grow(self) -> None:
        """Room for every name; of whoever has no cell the first is behind the last."""
        more = len(self._names) - len(self._first)
        self._first = np.concatenate([self._first, np.full(more, NEVER)])
        self._last = np.concatenate([self._last, np.full(more, -NEVER)])

    def close(self, *, positions: dict[str, tuple[int, int]], left_out: int) -> History:
        if self._rows[0]:
            self._flush()
        if not self._parts:
            raise NoHistory(NOTHING)
        step = self._step
        there = np.flatnonzero(self._first <= self._last)
        names = pl.DataFrame({"code": there, "name": [self._names[code] for code in there.tolist()]}).sort("name")
        rank = np.full(len(self._names), -1)  # of whom no cell was closed
        code = names["code"].to_numpy()
        rank[code] = np.arange(len(code))
        width = 0 if self._outlooks is None else self._outlooks.width
        book = Book(self._folder, names["name"].to_list(), self._first[code] // step, self._last[code] // step, width)
        for path in self._parts:
            rows = pl.read_parquet(path)
            book.write(rank[rows["code"].to_numpy()], rows["at"].to_numpy() // step, rows["value"].to_numpy())
        if self._outlooks is not None:
            self._put_down()
            for path in self._told:
                with np.load(path) as known:
                    book.tell(rank[known["slot"]], known["cell"], known["outlook"])
                path.unlink()
        found = book.close(positions=positions, left_out=left_out)
        for path in self._parts:
            path.unlink()
        return found


def rows() -> tuple[array[int], array[int], array[float]]:
    """Codes, times of cells and values of none: lists of as many numbers would take four times the room."""
    return array("q"), array("q"), array("d")


# What is kept


NOTHING = "no observation could be used: nothing to learn from; are topics, columns and times right?"
MOST = 1 << 31  # cells, 16 GiB: a wrong step makes more


class Book:
    """Series with room for each cell from the first to the last of them, on disk."""

    def __init__(self, folder: Path, names: Sequence[str], first: np.ndarray, last: np.ndarray, width: int = 0) -> None:
        """Names in their order; `width` numbers of an outlook. Raises NoHistory where there are none, SettingsError where
        they would not fit.
        """
        if not len(names):
            raise NoHistory(NOTHING)
        start = np.concatenate([[0], (last - first + 1).cumsum()])
        if start[-1] * max(1, width // 4) > MOST:
            raise SettingsError(f"{start[-1]:,} steps from the first to the last time of {len(names):,} series: is series.step right?")
        self._folder = folder
        values = np.memmap(folder / VALUES, np.float64, "w+", shape=(int(start[-1]),))
        for at in range(0, len(values), BATCH):
            values[at : at + BATCH] = np.nan
        key = np.array([xxhash.xxh3_64_intdigest(n.encode("utf-8", "surrogatepass")) for n in names], np.uint64)
        self._past = Past(key, np.asarray(first, np.int64), start.astype(np.int64), values)
        if width:
            told = np.memmap(folder / OUTLOOKS, np.float16, "w+", shape=(len(values), width))
            for at in range(0, len(told), BATCH):
                told[at : at + BATCH] = np.nan
            self._past = self._past._replace(outlooks=told)

    def write(self, series: np.ndarray, cells: np.ndarray, values: np.ndarray) -> None:
        """Of two values for one cell the later one counts."""
        self._past.values[self._past.start[series] + cells - self._past.first[series]] = values

    def tell(self, series: np.ndarray, cells: np.ndarray, outlooks: np.ndarray) -> None:
        """What was known of covariates at cells; those of no value are nobody's."""
        place = cells - self._past.first[series]
        there = (series >= 0) & (place >= 0) & (place < np.diff(self._past.start)[series])
        self._past.outlooks[(self._past.start[series] + place)[there]] = outlooks[there]

    def close(self, *, positions: dict[str, tuple[int, int]], left_out: int) -> History:
        """Once this has returned, `kept` finds it."""
        past, seen = self._past, 0
        digest = hashlib.sha256()
        for part in (past.key, past.first, past.start):
            digest.update(np.ascontiguousarray(part).data)
        for at in range(0, len(past.values), BATCH):
            part = np.asarray(past.values[at : at + BATCH])
            seen += int((~np.isnan(part)).sum())
            digest.update(part.data)
        past.values.flush()  # type: ignore[attr-defined]
        if past.outlooks.size:
            for at in range(0, len(past.outlooks), BATCH):
                digest.update(np.asarray(past.outlooks[at : at + BATCH]).data)
            past.outlooks.flush()  # type: ignore[attr-defined]
        np.savez(self._folder / SERIES, key=past.key, first=past.first, start=past.start)
        said = {"observations": seen, "left_out": left_out, "positions": positions, "sha256": digest.hexdigest()}
        beside = self._folder / f"{DONE}.unfinished"
        beside.write_text(json.dumps(said))
        beside.replace(self._folder / DONE)
        found = kept(self._folder)
        assert found is not None
        return found


def kept(folder: Path) -> History | None:
    """What has been read into this folder to its end; None: nothing has."""
    if not (folder / DONE).exists():
        return None
    said = json.loads((folder / DONE).read_text())
    with np.load(folder / SERIES) as series:
        past = Past(series["key"], series["first"], series["start"], np.memmap(folder / VALUES, np.float64, "r"))
    if (folder / OUTLOOKS).exists():
        past = past._replace(outlooks=np.memmap(folder / OUTLOOKS, np.float16, "r").reshape(len(past.values), -1))
    positions = {name: (first, behind) for name, (first, behind) in said.pop("positions").items()}
    return History(past=past, positions=positions, **said)
