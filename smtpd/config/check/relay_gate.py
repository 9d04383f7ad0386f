"""Relay actions are refused as long as nothing carries them out."""

from smtpd.config.parser import Parsed


def refuse_relays(parsed: Parsed) -> None:
    for position in parsed.names.relay_positions.values():
        parsed.report.add(position, '"action … relay" is not available yet')
