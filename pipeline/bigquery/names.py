"""Names that go into SQL: checked and quoted here, or nowhere."""

from __future__ import annotations

import dataclasses
import re

from pipeline.errors import ConfigError

# https://cloud.google.com/resource-manager/docs/creating-managing-projects (ids), domain-scoped ones with a prefix.
_PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]|[a-z0-9][a-z0-9.-]*\.[a-z]{2,}:[a-z][a-z0-9-]{1,28}[a-z0-9]")
# https://cloud.google.com/bigquery/docs/datasets#dataset-naming
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
# https://cloud.google.com/bigquery/docs/tables#table_naming allows more; these survive quoting and every client.
_TABLE = re.compile(r"[\w-]{1,1024}")
# https://cloud.google.com/bigquery/docs/schemas#column_names
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_RESERVED_PREFIXES = ("_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class TableName:
    """The full name of a table or view; `parse` is the only way in for what a user wrote."""

    project: str
    dataset: str
    table: str

    @classmethod
    def parse(cls, text: str, flag: str = "table") -> TableName:
        """Reads `PROJECT.DATASET.TABLE`; a domain-scoped project such as `example.com:my-project` is one project.

        Args:
            text: What the user wrote; back-quotes and `PROJECT:DATASET.TABLE` are understood.
            flag: The option that it came from, for the error.

        Raises:
            ConfigError: It is not such a name; the message says which part.
        """
        bare = text.strip().strip("`").replace("`.`", ".")
        parts = bare.rsplit(".", 2)
        if len(parts) == 2 and ":" in parts[0]:  # bq's own PROJECT:DATASET.TABLE
            parts = [*parts[0].rsplit(":", 1), parts[1]]
        if len(parts) != 3 or not all(parts):
            raise ConfigError(f"{flag}: {text!r} is not PROJECT.DATASET.TABLE, e.g. my-project.my_dataset.my_table")
        for part, form, what in zip(
            parts,
            (_PROJECT, _DATASET, _TABLE),
            (
                "a project id (6-30 lower-case letters, digits and hyphens, a letter first)",
                "a data set name (letters, digits and underscores)",
                "a table name (letters, digits, underscores and hyphens)",
            ),
            strict=True,
        ):
            if not form.fullmatch(part):
                raise ConfigError(f"{flag}: {part!r} in {text!r} is not {what}")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def sql(self) -> str:
        """Quoted for GoogleSQL."""
        return f"`{self.project}`.`{self.dataset}`.`{self.table}`"

    @property
    def path(self) -> str:
        """As the Storage API wants it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    @property
    def dataset_name(self) -> str:
        """`PROJECT.DATASET`."""
        return f"{self.project}.{self.dataset}"

    def beside(self, suffix: str) -> TableName:
        """The table of the same data set whose name is this one's and the suffix."""
        return TableName(self.project, self.dataset, f"{self.table}{token(suffix)}")


def column(name: str, flag: str = "column") -> str:
    """Returns the name of a column, checked.

    Raises:
        ConfigError: BigQuery would not take it as a column's name.
    """
    if not _COLUMN.fullmatch(name) or name.lower().startswith(_RESERVED_PREFIXES):
        raise ConfigError(
            f"{flag}: {name!r} is not a column name: letters, digits and underscores, a letter or underscore first"
        )
    return name


def quoted(name: str, flag: str = "column") -> str:
    """Returns a column or a path of struct fields (`bbox.lo.x`), checked and quoted for GoogleSQL."""
    return ".".join(f"`{column(part, flag)}`" for part in name.split("."))


def token(text: str) -> str:
    """Returns a run id, fingerprint or suffix that goes into names and literals, checked.

    Raises:
        ValueError: It has other characters than letters, digits, `_` and `-`; these are made by us, so it is a bug.
    """
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} may only hold letters, digits, underscores and hyphens")
    return text


def label_value(text: str) -> str:
    """Returns the text as a BigQuery label's value: at most 63 lower-case letters, digits, `_` and `-`."""
    return re.sub(r"[^a-z0-9_-]", "_", text.lower())[:63]
