"""A host that takes mail, on a port of loopback."""

import asyncio


class Host:
    """A server on a port of loopback; `answer(line)` makes its replies, None closes."""

    def __init__(self, answer=None, greeting=b"220 there\r\n", tls=None):
        self.answer, self.greeting, self.tls = answer or self.polite, greeting, tls
        self.lines, self.content = [], b""

    @staticmethod
    def polite(line):
        verb = line.partition(b" ")[0].strip().upper()
        return {b"EHLO": b"250-there\r\n250 SIZE 0\r\n", b"DATA": b"354 go\r\n", b"QUIT": None}.get(verb, b"250 ok\r\n")

    async def serve(self, reader, writer):
        try:
            writer.write(self.greeting)
            while line := await reader.readline():
                self.lines.append(line)
                reply = self.answer(line)
                if reply is None:
                    break
                writer.write(reply)
                if line.startswith(b"STARTTLS") and reply.startswith(b"220"):
                    await writer.start_tls(self.tls)
                if line.startswith(b"DATA") and reply.startswith(b"354"):
                    self.content = await reader.readuntil(b"\r\n.\r\n")
                    final = self.answer(b".")
                    if final is None:
                        break
                    writer.write(final)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
