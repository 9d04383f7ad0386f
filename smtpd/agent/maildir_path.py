"""Path of the Maildir for a mail, and the directory that an agent has to see for it.

    path of the action           visible to an agent of one user  to an agent of an action with `user NAME`
    ~/Maildir                    that Maildir                     home of NAME: it contains the other homes
    /mail/%{user.username}       that Maildir                     /mail
    /mail/%{dest.domain}/bob     /mail                            /mail

If all mail goes to one Maildir, the agent sees nothing else, and makes it before it enters the sandbox.  Other Maildirs
are made when the first mail for them comes.
"""

from dataclasses import dataclass
from os.path import normpath

from smtpd.config import specifier
from smtpd.config.specifier import DIRECTORY, Template, TemplateError, values_of
from smtpd.errand import AgentSpec, Deliver

_OF_USER = frozenset(("user.username", DIRECTORY))


class HomeError(OSError):
    """The home directory in the userbase is outside of the homes of this action."""


def recipient_account(spec: AgentSpec, mail: Deliver, user: str, home: str) -> tuple[str, str]:
    """Name and home directory of the recipient, for an agent that runs as `user` with that `home`.  Raises HomeError.

    What queue says counts only where the action names the user to run as.  The home then comes from a table, so it has
    to be below the home of that user.
    """
    if not spec.shared:
        return user, home
    if not mail.home:
        return mail.user or user, home
    if normpath(mail.home) != mail.home or not mail.home.startswith(f"{normpath(home).rstrip('/')}/"):
        raise HomeError(f"the home {mail.home} of {mail.user} is not below {home}, the home of {user}")
    return mail.user or user, mail.home


@dataclass(frozen=True)
class MaildirPath:
    template: Template
    spec: AgentSpec
    user: str  # the agent runs as this user
    home: str

    @classmethod
    def of(cls, spec: AgentSpec, user: str, home: str) -> "MaildirPath":
        """Raises TemplateError."""
        template = specifier.parse(spec.target)
        if not home.startswith("/") and (spec.target.startswith("~/") or DIRECTORY in template.names):
            raise TemplateError(f"{spec.target} needs a home directory, and the user has none")
        return cls(template, spec, user, normpath(home))

    @property
    def _is_in_home(self) -> bool:
        return self.spec.target.lower().startswith(("~/", f"%{{{DIRECTORY}}}"))

    @property
    def is_fixed(self) -> bool:
        """All mail goes to one Maildir."""
        names = self.template.names | ({DIRECTORY} if self._is_in_home else set())
        return not (names if self.spec.shared else names - _OF_USER)

    @property
    def top(self) -> str:
        """The one Maildir, or the common directory of all Maildirs.  Raises TemplateError."""
        if not self.spec.shared:
            return self.template.prefix({"user.username": self.user, DIRECTORY: self.home}, self.spec.delimiter)
        if self._is_in_home:
            return self.home
        return self.template.prefix({}, self.spec.delimiter)

    def path(self, mail: Deliver) -> str:
        """Raises TemplateError if the addresses of this mail make no path, HomeError for a home that is not allowed."""
        user, home = recipient_account(self.spec, mail, self.user, self.home)
        values = values_of(mail.sender, mail.recipient, mail.destination, user, home)
        return self.template.path(values, self.spec.delimiter)
