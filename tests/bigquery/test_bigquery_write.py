from __future__ import annotations

import threading

import grpc
import pytest
from google.api_core import exceptions
from strict_writer import StrictWriter
from table_rows import NOW

from pipeline.bigquery import tables
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.bigquery.write import RowWriter, WriteError, append_now
from pipeline.errors import ConfigError
from pipeline.rows import Column

COLUMNS = (
    Column("key", "STRING", required=True),
    Column("text", "STRING"),
    Column("data", "JSON"),
    Column("cost_usd", "FLOAT64"),
)
TABLE = TableName("demo-project", "ds", "t")
FAST = {"first_delay_secs": 0.01, "give_up_secs": 30.0, "flush_secs": 0.05}


@pytest.fixture
def service():
    with StrictWriter(COLUMNS) as running:
        yield running


def endpoint_of(service: StrictWriter) -> Endpoint:
    return Endpoint("demo-project", rest="http://127.0.0.1:1", storage=service.address)


@pytest.fixture
def opened(service):
    """Makes open writers to the strict service; closed at the end."""
    writers = []

    def make(**options) -> RowWriter:
        writer = RowWriter(endpoint_of(service), TABLE, COLUMNS, **{**FAST, **options})
        writer.open()
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.close()


def rows(*keys: str) -> list[dict]:
    return [{"key": key, "text": f"text of {key}", "cost_usd": 0.25} for key in keys]


def append_all(writer, given):
    bundle = writer.bundle()
    for row in given:
        bundle.append(row)
    return bundle


def test_rows_arrive_once_in_batches_over_one_stream(service, opened):
    writer = opened(flush_rows=10)
    bundle = append_all(writer, rows(*map(str, range(95))))
    assert bundle.wait() == []
    assert sorted(int(row["key"]) for row in service.rows) == list(range(95))
    assert max(service.requests) == 10
    assert service.streams == 1
    assert (writer.pending_rows, writer.pending_usd) == (0, 0.0)


def test_rows_are_sent_by_time_without_anyone_waiting(service, opened):
    writer = opened(flush_secs=0.02)
    writer.bundle().append(rows("a")[0])
    assert service.arrived.acquire(timeout=10)


def test_several_appends_are_in_flight_and_their_dollars_are_pending(service, opened):
    writer = opened(flush_rows=2)
    service.hold.clear()
    bundle = append_all(writer, rows("a", "b", "c", "d"))
    assert service.arrived.acquire(timeout=10)
    assert (writer.pending_rows, writer.pending_usd) == (4, 1.0)
    service.hold.set()
    bundle.wait()
    assert (writer.pending_rows, writer.pending_usd) == (0, 0.0)
    assert service.streams == 1


def test_only_the_rows_that_bigquery_names_are_rejected_and_the_rest_go_again(service, opened):
    writer = opened()
    bundle = append_all(writer, rows("a", "bad 1", "b", "bad 2", "c"))
    refused = bundle.wait()
    assert [(one.row["key"], one.error) for one in refused] == [
        ("bad 1", "cannot take row 1"),
        ("bad 2", "cannot take row 3"),
    ]
    assert refused[0].row["text"] == "text of bad 1"
    assert sorted(row["key"] for row in service.rows) == ["a", "b", "c"]
    assert bundle.wait() == []


def test_a_row_that_arrow_or_json_refuses_is_rejected_without_the_service(service, opened):
    bundle = append_all(
        opened(), [*rows("a"), {"key": "b", "text": "\ud800"}, {"key": "c", "data": "{"}, {"text": "x"}]
    )
    assert [one.row.get("key") for one in bundle.wait()] == ["b", "c", None]
    assert [row["key"] for row in service.rows] == ["a"]


def test_a_row_that_is_too_large_is_rejected_and_large_batches_are_split(service, opened):
    large = [{"key": str(n), "text": "x" * 3_000_000} for n in range(5)]
    refused = append_all(opened(), [*large, {"key": "huge", "text": "x" * 11_000_000}]).wait()
    assert [one.row["key"] for one in refused] == ["huge"]
    assert sorted(row["key"] for row in service.rows) == list("01234")
    assert len(service.requests) >= 2


def test_each_bundle_gets_its_own_rejected_rows_and_waits_for_its_own(service, opened):
    writer = opened(flush_secs=60.0)
    one, other = append_all(writer, rows("a", "bad 1")), append_all(writer, rows("bad 2", "b"))
    assert [refused.row["key"] for refused in one.wait()] == ["bad 1"]
    assert [refused.row["key"] for refused in other.wait()] == ["bad 2"]
    assert append_all(writer, rows("c")).take_rejected() == []


@pytest.mark.parametrize(
    "fault",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        (13, "internal error"),
        (10, "aborted because of prior failures"),
        (8, "quota of throughput"),
        (5, "table not found, it is young"),
        (3, "Input schema has more fields than BigQuery schema, extra fields: 'text'"),
    ],
)
def test_what_passes_is_tried_again(service, opened, fault):
    service.faults.extend([fault, fault])
    assert append_all(opened(), rows("a", "b")).wait() == []
    assert [row["key"] for row in service.rows] == ["a", "b"]


def test_a_lost_acknowledgement_means_twice_never_not_at_all(service, opened):
    service.faults.append("lost ack")
    append_all(opened(), rows("a")).wait()
    assert [row["key"] for row in service.rows] == ["a", "a"]


def test_a_silent_connection_is_replaced(service, opened):
    service.faults.append("silence")
    append_all(opened(ack_timeout_secs=0.1), rows("a")).wait()
    assert [row["key"] for row in service.rows] == ["a"]
    assert service.streams == 2


@pytest.mark.parametrize(
    "fault",
    [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, (7, "told to"), (3, "told to")],
)
def test_what_does_not_pass_is_raised_to_the_bundle_at_once(service, opened, fault):
    writer = opened()
    service.faults.append(fault)
    bundle = append_all(writer, rows("a"))
    with pytest.raises(WriteError, match=r"^1 rows could not be appended to demo-project\.ds\.t: .*told to"):
        bundle.wait()
    with pytest.raises(WriteError):
        bundle.append(rows("b")[0])
    assert append_all(writer, rows("c")).wait() == []  # the next bundle of the process starts afresh
    assert [row["key"] for row in service.rows] == ["c"]
    assert writer.pending_usd == 0.0


def test_when_nothing_is_acknowledged_for_long_those_who_wait_are_told(service, opened):
    writer = opened(give_up_secs=0.2)
    service.columns = None
    one, other = append_all(writer, rows("a")), append_all(writer, rows("b"))
    for bundle in (one, other):
        with pytest.raises(WriteError, match=r"nothing was acknowledged for 0\.2 s; the last error was: NOT_FOUND"):
            bundle.wait()
    service.columns = COLUMNS
    assert append_all(writer, rows("c")).wait() == []


def test_appending_waits_while_too_much_is_pending(service, opened):
    writer = opened(flush_rows=2, max_pending_rows=4)
    service.hold.clear()
    bundle = append_all(writer, rows("a", "b", "c", "d"))
    fifth = threading.Thread(target=bundle.append, args=(rows("e")[0],))
    fifth.start()
    assert service.arrived.acquire(timeout=10)
    assert writer.pending_rows == 4
    service.hold.set()
    fifth.join(10)
    bundle.wait()
    assert len(service.rows) == 5


def test_open_waits_for_a_table_that_is_seconds_old(service):
    service.columns = None
    writer = RowWriter(endpoint_of(service), TABLE, COLUMNS, **FAST)
    opening = threading.Thread(target=writer.open)
    opening.start()
    assert service.lookups.acquire(timeout=10)
    assert service.lookups.acquire(timeout=10)
    assert opening.is_alive()
    service.columns = COLUMNS[:2]  # the columns that were added come last of all
    assert service.lookups.acquire(timeout=10)
    assert service.lookups.acquire(timeout=10)
    service.columns = COLUMNS
    opening.join(10)
    assert append_all(writer, rows("a")).wait() == []
    writer.close()


def test_open_tells_before_anything_is_paid_what_will_not_pass(service):
    service.columns = None
    with pytest.raises(exceptions.NotFound):
        RowWriter(endpoint_of(service), TABLE, COLUMNS, **{**FAST, "give_up_secs": 0.05}).open()
    service.columns = COLUMNS[:3]
    with pytest.raises(exceptions.NotFound, match="does not know cost_usd of demo-project"):
        RowWriter(endpoint_of(service), TABLE, COLUMNS, **{**FAST, "give_up_secs": 0.05}).open()
    service.columns = (*COLUMNS[:2], Column("data", "STRING"), Column("cost_usd", "FLOAT64"))
    with pytest.raises(ConfigError, match="data is STRING, not JSON"):
        RowWriter(endpoint_of(service), TABLE, COLUMNS, **FAST).open()


def test_a_bug_in_the_writer_s_thread_is_raised_to_those_who_wait_and_hangs_nobody(service, opened):
    class Broken(dict):
        def get(self, name, default=None):
            if name == "text":
                raise ZeroDivisionError
            return super().get(name, default)

    writer = opened()
    bundle = append_all(writer, [*rows("a"), Broken(key="b")])
    with pytest.raises(WriteError, match="bug in the writer: ZeroDivisionError"):
        bundle.wait()
    writer.flush()
    with pytest.raises(ValueError, match="after close"):
        writer.bundle().append(rows("c")[0])


def test_rows_that_are_named_but_were_not_sent_fail_the_bundle(service, opened):
    service.faults.append((3, "Errors found", [7]))
    bundle = append_all(opened(), rows("a"))
    with pytest.raises(WriteError, match="Errors found"):
        bundle.wait()


def test_close_flushes_and_can_be_called_again(service, opened):
    writer = opened(flush_secs=60.0)
    append_all(writer, rows("a", "b"))
    writer.close()
    writer.close()
    assert len(service.rows) == 2
    with pytest.raises(ValueError, match="after close"):
        writer.bundle().append(rows("c")[0])


def test_many_threads_append_at_once(service, opened):
    writer = opened(flush_rows=50)

    def work(part: int) -> None:
        assert append_all(writer, rows(*(f"{part}-{n}" for n in range(200)))).wait() == []

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row["key"] for row in service.rows}) == len(service.rows) == 1600


def test_the_emulator_takes_what_we_write_and_gives_it_back(endpoint, name):
    columns = (*COLUMNS, Column("at", "TIMESTAMP"), Column("n", "INT64"), Column("yes", "BOOL"), Column("day", "DATE"))
    tables.ensure_table(endpoint, name("t"), columns, partition_by="at")
    row = {"key": "a", "text": "x\n'ü", "data": '{"a": [1, null]}', "at": NOW, "n": -1, "yes": False, "day": NOW.date()}
    append_now(endpoint, name("t"), columns, [row])
    found = run(endpoint, Query(f"SELECT * FROM {name('t').sql}"))
    assert found == [{**row, "data": {"a": [1, None]}, "cost_usd": None}]
    with pytest.raises(ValueError, match="refuses a row: key: is missing"):
        append_now(endpoint, name("t"), columns, [{"text": "x"}])


def test_the_emulator_can_die_and_come_back_while_rows_are_appended(disk_bigquery):
    endpoint = Endpoint(disk_bigquery.project, rest=disk_bigquery.rest, storage=disk_bigquery.storage)
    columns = (*COLUMNS, Column("at", "TIMESTAMP"))
    tables.ensure_table(endpoint, TABLE, columns, partition_by="at")
    writer = RowWriter(endpoint, TABLE, columns, **{**FAST, "give_up_secs": 200.0})
    writer.open()
    assert append_all(writer, rows("a")).wait() == []
    disk_bigquery.kill()
    bundle = append_all(writer, rows("b"))
    disk_bigquery.start()
    assert bundle.wait() == []
    writer.close()
    found = run(endpoint, Query(f"SELECT DISTINCT key FROM {TABLE.sql} ORDER BY key"))
    assert [row["key"] for row in found] == ["a", "b"]
