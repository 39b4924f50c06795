"""What the checks know of one set of flags so far."""

from __future__ import annotations

import dataclasses
import uuid

from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.inputs import TableInfo
from pipeline.bigquery.names import TableName
from pipeline.bigquery.worklist import Source
from pipeline.options import Options
from pipeline.rows import Column, Observation
from pipeline.task import Settings, Task


@dataclasses.dataclass
class Patient:
    """Filled in by the checks, in their order; None or empty is what no check has found out yet.

    Attributes:
        location: where the tables lie.
        is_linked: the input is in a linked data set.
        kept: names of the input's columns that go along.
        copied: the table that `copy_rows` made.
        rows: a few usable rows of it.
        made: tables to delete when all is done.
    """

    options: Options
    task: Task | None = None
    settings: Settings | None = None
    endpoint: Endpoint | None = None
    info: TableInfo | None = None
    is_linked: bool = False
    answers: TableName | None = None
    location: str | None = None
    source: Source | None = None
    answer_columns: tuple[Column, ...] = ()
    kept: tuple[str, ...] = ()
    copied: TableName | None = None
    rows: tuple[Observation, ...] = ()
    made: list[TableName] = dataclasses.field(default_factory=list)
    name: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex[:8])

    # For checks that run only after the one that finds this out.

    @property
    def known_task(self) -> Task:
        assert self.task is not None  # noqa: S101 - see above
        return self.task

    @property
    def known_settings(self) -> Settings:
        assert self.settings is not None  # noqa: S101
        return self.settings

    @property
    def known_endpoint(self) -> Endpoint:
        assert self.endpoint is not None  # noqa: S101
        return self.endpoint

    @property
    def known_info(self) -> TableInfo:
        assert self.info is not None  # noqa: S101
        return self.info

    @property
    def known_source(self) -> Source:
        assert self.source is not None  # noqa: S101
        return self.source

    def new_table(self, suffix: str) -> TableName:
        """A name beside the answers that nobody else has; the table is deleted in the end."""
        assert self.answers is not None  # noqa: S101
        table = self.answers.beside(f"_doctor_{self.name}_{suffix}")
        self.made.append(table)
        return table

    def clean_up(self) -> list[TableName]:
        """Deletes the tables that the checks made.

        Returns:
            Those that could not be deleted.
        """
        from google.api_core.exceptions import GoogleAPICallError

        left = []
        if self.made and self.endpoint is not None:
            with self.endpoint.client() as client:
                for table in self.made:
                    try:
                        client.delete_table(str(table), not_found_ok=True)
                    except GoogleAPICallError:
                        left.append(table)
        return left
