"""Names that a file gives to other files: of its own folder, or refused."""

from clpds.errors import UserError


def require_inside(where: object, *names: str) -> None:
    """UserError that quotes the file ``where`` unless each name is that of a file beside it: no path, no way up.

    A link beside it may lead elsewhere: the hub's cache consists of them, and whoever can make one here can read.
    """
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise UserError(f"{where} names {name!r}, which lies outside its folder; do not trust this folder")
