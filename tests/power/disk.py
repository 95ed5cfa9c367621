"""Calls that change files, played onto a medium: which file or folder each is about, and what it does there."""

from pathlib import Path
from typing import Any

from tests.power.medium import Change, Content, Cut, Folder, Node, load, write
from tests.power.trace import Call, File

#: Shared memory of SQLite's, made anew by whoever opens the database first.
FLEETING = (b"-shm",)
SYNCS = ("fsync", "fdatasync")


class Disk:
    """The files below one folder, replayed from the calls that changed them."""

    def __init__(self, root: Path, top: Folder) -> None:
        """`root`: where the files lay while their calls were recorded."""
        self.root = str(root.resolve()).encode()
        self.top = top
        self._positions: dict[tuple[int, int], int] = {}
        self._appending: set[tuple[int, int]] = set()
        self._syncs: dict[tuple[str, int], tuple[Node, Any, int]] = {}

    @classmethod
    def of(cls, before: Path, root: Path) -> "Disk":
        """A disk that holds what lies in `before`, all of it lasting, as if it lay in `root`."""
        return cls(root, load(before))

    def holds(self, path: bytes | None) -> bool:
        """Whether a path lies on this disk."""
        return path is not None and self._inside(path)

    def concerns(self, call: Call) -> bool:
        """Whether a call is about something on this disk."""
        paths = [file.path for file in call.files] + list(call.texts)
        return any(self.holds(path) for path in paths)

    def play(self, call: Call) -> bool:
        """Take a call's effect. Returns whether it changed anything here, lasting or not.

        Raises:
            ValueError: it would change files in a way that is not modelled.
        """
        if call.name in SYNCS:
            return self._sync(call)
        if not call.ends or call.failed:
            return False
        action = getattr(self, f"_{call.name}", None)
        if action is not None:
            return bool(action(call))
        if call.name in ("sendto", "sendmsg"):
            return False
        if call.name == "mmap" and not (b"MAP_SHARED" in call.told and b"PROT_WRITE" in call.told):
            return False
        # What was written is no path, and all other texts are.
        paths = [file.path for file in call.files] + ([] if "write" in call.name else list(call.texts))
        touched = [path for path in paths if self.holds(path) and not (path or b"").endswith(FLEETING)]
        if touched:
            raise ValueError(f"{call.name} of {touched[0]!r} is not modelled")
        return False

    # Names

    def _inside(self, path: bytes) -> bool:
        return path == self.root or path.startswith(self.root + b"/")

    def find(self, path: bytes | None) -> Node | None:
        """What has this path now."""
        if path is None or not self._inside(path):
            return None
        node: Node | None = self.top
        for part in path[len(self.root) :].split(b"/"):
            if part:
                node = node.cache.get(part) if isinstance(node, Folder) else None
        return node

    def _place(self, path: bytes) -> tuple[Folder, bytes] | None:
        parent, _, name = path.rpartition(b"/")
        folder = self.find(parent)
        return (folder, name) if isinstance(folder, Folder) and not name.endswith(FLEETING) else None

    def _path(self, call: Call, number: int) -> bytes:
        """The path a call names, from the folder it is relative to."""
        text = call.texts[number]
        if text.startswith(b"/"):
            return text
        if not call.name.endswith(("at", "at2")):
            raise ValueError(f"{call.name} of {text!r}: nothing says in which folder")
        return (call.files[number].path or b"") + b"/" + text

    def _add(self, path: bytes, node: Node) -> bool:
        place = self._place(path)
        if place is None:
            return False
        place[0].change(Change(node, place[1], None))
        return True

    def _mkdir(self, call: Call) -> bool:
        return self._add(self._path(call, 0), Folder())

    _mkdirat = _mkdir

    def _unlink(self, call: Call) -> bool:
        place = self._place(self._path(call, 0))
        if place is None:
            return False
        place[0].change(Change(None, None, place[1]))
        return True

    _unlinkat = _rmdir = _unlink

    def _rename(self, call: Call) -> bool:
        source, target = self._place(self._path(call, 0)), self._place(self._path(call, 1))
        if source is None and target is None:
            return False
        if source is None or target is None or source[0] is not target[0]:
            raise ValueError(f"a rename from one folder to another is not modelled: {call.texts}")
        folder, name = source
        folder.change(Change(folder.cache[name], target[1], name))
        return True

    _renameat = _renameat2 = _rename

    def _openat(self, call: Call) -> bool:
        path = call.opened.path if call.opened is not None else None
        if path is None or not self._inside(path) or path.endswith(FLEETING):
            return False
        changed = False
        node = self.find(path)
        if node is None and b"O_CREAT" in call.told:
            node = Content()
            changed = self._add(path, node)
        if not isinstance(node, Content):
            return False
        key = (id(node), call.result or 0)
        self._positions[key] = 0
        (self._appending.add if b"O_APPEND" in call.told else self._appending.discard)(key)
        if b"O_TRUNC" in call.told and node.cache:
            node.truncate(0)
            changed = True
        return changed

    # Contents

    def _content(self, file: File) -> Content | None:
        if file.path is None or file.path.endswith(FLEETING):
            return None
        node = self.find(file.path)
        return node if isinstance(node, Content) else None

    def _key(self, node: Content, file: File) -> tuple[int, int]:
        return id(node), file.fd or 0

    def _lseek(self, call: Call) -> bool:
        node = self._content(call.files[0])
        if node is not None:
            self._positions[self._key(node, call.files[0])] = call.result or 0
        return False

    def _put(self, file: File, data: bytes) -> bool:
        node = self._content(file)
        if node is None:
            return False
        key = self._key(node, file)
        at = len(node.cache) if key in self._appending else self._positions.get(key, 0)
        node.write(at, data)
        self._positions[key] = at + len(data)
        return True

    def _write(self, call: Call) -> bool:
        return self._put(call.files[0], call.texts[0][: call.result]) if call.texts else False

    def _writev(self, call: Call) -> bool:
        return self._put(call.files[0], b"".join(call.texts)[: call.result])

    def _pwrite64(self, call: Call) -> bool:
        node = self._content(call.files[0])
        if node is None:
            return False
        node.write(int(call.told.rpartition(b",")[2]), call.texts[0][: call.result])
        return True

    def _ftruncate(self, call: Call) -> bool:
        node = self._content(call.files[0])
        if node is None:
            return False
        node.truncate(int(call.told.rpartition(b",")[2]))
        return True

    def _sendfile(self, call: Call) -> bool:
        target, source = call.files
        if target.path is None or not self._inside(target.path):
            return False
        before = int(call.told.split(b"[")[1].split(b"]")[0])
        node = self._content(source)
        count = call.result or 0
        if node is not None:
            data = bytes(node.cache[before : before + count])
        else:  # a file outside, which nobody changes meanwhile
            data = Path((source.path or b"").decode()).read_bytes()[before : before + count]
        return self._put(target, data)

    # What lasts

    def _sync(self, call: Call) -> bool:
        node = self.find(call.files[0].path)
        key = (call.name, call.files[0].fd or 0)
        if node is None:
            return False
        if call.begins:
            begun = node.begin_sync() if isinstance(node, Content) else list(node.changes)
            self._syncs[key] = (node, begun, len(node.cache))
        if not call.ends:
            return False
        node, taken, size = self._syncs.pop(key)
        if isinstance(node, Folder):
            if not call.failed:
                node.end_sync(taken)
        elif call.failed:
            node.fail_sync(taken)
        else:
            node.end_sync(taken, size)
        return True

    def image(self, cut: Cut, target: Path) -> None:
        """Write what is there after a power cut into an empty folder."""
        write(self.top, cut, target)
