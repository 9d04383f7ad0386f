"""Escapes text for output: nothing in it moves the cursor or ends a line."""


def visible(text: str, also: str = "") -> str:
    """`text` with what does not print, backslashes, and the characters in `also` as \\ooo or \\u{…}.

    More than log.visible of the daemon: this goes to a terminal, and a script can undo it."""
    if text.isprintable() and "\\" not in text and not any(char in text for char in also):
        return text
    return "".join(char if char.isprintable() and char not in also and char != "\\" else escape(char) for char in text)


def escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return f"\\{ord(char):03o}" if ord(char) < 256 else f"\\u{{{ord(char):x}}}"
