"""table NAME BACKEND[:/path] with an unknown BACKEND -> the program table-BACKEND that answers for it."""

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.errors import Report, quoted, suggestion
from smtpd.config.host import Host
from smtpd.config.parser import Parsed
from smtpd.slice import PROGRAM_USER, ProgramSlice


def slice_programs(parsed: Parsed, host: Host, report: Report) -> tuple[ProgramSlice, ...]:
    """The programs of all such tables; the only argument is the path of the program's configuration, if it has one."""
    programs = []
    for table in parsed.config.tables:
        if not table.backend or table.backend in BACKENDS_WITH_PATH:
            continue
        name = f"table-{table.backend}"
        path = host.find_program(name)
        if path is None:
            where = f"unknown backend {quoted(table.backend)}: no program {quoted(name)} in {', '.join(host.libexec)}"
            position = parsed.names.table_positions[table.name]
            report.add(position, f"table {quoted(table.name)}: {where}{suggestion(table.backend, BACKENDS_WITH_PATH)}")
        else:
            arguments = (path,) if table.path is None else (path, table.path)
            programs.append(ProgramSlice(table.name, arguments, PROGRAM_USER))
    return tuple(programs)
