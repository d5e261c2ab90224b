"""Errors that a user can cause or must act on. Their text is the whole message: where, found, expected, the way out."""


class ByteproxyError(Exception):
    """Shown to the user as one line, without a traceback."""


class CorruptShard(ByteproxyError):
    """Bytes of a shard are not what was written.

    Attributes name the place as far as it is known, so that a caller can quarantine the one document.
    """

    def __init__(
        self,
        found: str,
        *,
        file: str,
        row_group: int | None = None,
        column: str | None = None,
        document: int | None = None,
    ) -> None:
        self.file, self.row_group, self.column, self.document = file, row_group, column, document
        places = (("row group", row_group), ("column", column), ("document", document))
        where = "".join(f", {name} {value}" for name, value in places if value is not None)
        super().__init__(f"{file}{where}: {found}. The file was changed after it was written; restore or rebuild it.")


class CacheFull(ByteproxyError):
    """There is no room in a cache that may be made now. `passing`: a download that ends may change that."""

    def __init__(self, text: str, passing: bool) -> None:
        self.passing = passing
        super().__init__(text)
