"""The contract on disk: a shard set of aligned raw and compressed views of documents.

`shards.writer` writes one shard, `shards.reader` maps a set, `shards.codecs` says what a view means.
"""
