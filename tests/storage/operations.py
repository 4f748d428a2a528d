"""Every operation of a store, by name."""

from mnrl_job.storage.base import read_bytes

OPERATIONS = {
    "list": lambda store: list(store.list_objects()),
    "stat": lambda store: store.stat("a"),
    "read": lambda store: read_bytes(store, "a"),
    "write": lambda store: store.write("b", b"x"),
    "create": lambda store: store.create("c", b"x"),
    "delete": lambda store: store.delete("d"),
    "remove incomplete": lambda store: store.remove_incomplete(),
}
