"""table NAME BACKEND[:/path], where BACKEND is none of ours -> the program table-BACKEND that answers for it."""

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.errors import Report, quoted, suggestion
from smtpd.config.host import Host
from smtpd.config.parser import Parsed
from smtpd.slice import PROGRAM_USER, ProgramSlice


def slice_programs(parsed: Parsed, host: Host, report: Report) -> tuple[ProgramSlice, ...]:
    """Its one argument is the path of its own configuration, if it has one."""
    programs = []
    for table in parsed.config.tables:
        if not table.backend or table.backend in BACKENDS_WITH_PATH:
            continue
        name = f"table-{table.backend}"
        path = host.find_program(name)
        if path is None:
            where = f"no program {quoted(name)} in {', '.join(host.libexec)}"
            place = parsed.names.table_positions[table.name]
            report.add(place, f"table {quoted(table.name)}: {where}{suggestion(table.backend, BACKENDS_WITH_PATH)}")
        else:
            arguments = (path,) if table.path is None else (path, table.path)
            programs.append(ProgramSlice(table.name, arguments, PROGRAM_USER))
    return tuple(programs)
