"""The rows of the table: which peer, used how, under which name."""

from dataclasses import dataclass

VARIANTS = ("tokens", "bytes")
MIXED = "mixed"  # our own rows that have no counterpart


@dataclass(frozen=True)
class Row:
    """One way of using one loader."""

    peer: str  # what --only names; its requirements are requirements/<peer>.txt
    option: str
    title: str
    shuffle: str  # how well its order is shuffled
    variants: tuple[str, ...] = VARIANTS

    @property
    def key(self) -> str:
        return f"{self.peer}-{self.option}"

    @property
    def module(self) -> str:
        """Of its code, below this package."""
        return self.peer if self.peer == "ours" else f"peers.{self.peer}"


REFERENCE = Row("flat", "copy", "flat `.bin`, `np.copyto` in sequence: the upper bound", "none")

ROWS = (
    Row("ours", "tokens", "**ours**, sentencepiece view only", "global", ("tokens",)),
    Row("ours", "bytes", "**ours**, raw only", "global", ("bytes",)),
    Row("ours", "mixed", "**ours**, views mixed, translation pairs", "global", (MIXED,)),
    Row("ours", "mixed-unchecked", "**ours**, the same with `check=off`", "global", (MIXED,)),
    REFERENCE,
    Row("flat", "packed", "flat `.bin`, shuffled documents, only packed", "global"),
    Row("flat", "windows", "flat `.bin`, random windows copied into the batch", "random windows"),
    Row("flat", "nanogpt", "flat `.bin`, nanoGPT's `get_batch`", "random windows"),
    Row("mosaic", "documents", "MosaicML Streaming", "global"),
    Row("litdata", "documents", "LitData, an item a document", "windows of 256"),
    Row("litdata", "blocks", "LitData, TokensLoader", "windows of 256 blocks"),
    Row("grain", "defaults", "Grain, defaults", "global"),
    Row("grain", "tuned", "Grain, tuned: uncompressed, no threads", "global"),
    Row("datasets", "arrow", "HF datasets, Arrow batches of 100", "global"),
    Row("datasets", "rows", "HF datasets, one document at a time", "global"),
    Row("parquet", "rows", "torch DataLoader over Parquet", "row groups"),
)

PEERS = tuple(dict.fromkeys(row.peer for row in ROWS))
