"""One module a peer: its store, built by the library's own calls, and the ways of using it that are measured."""
