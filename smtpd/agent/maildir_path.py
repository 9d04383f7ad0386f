"""Which Maildir a mail goes to, and what of the disk has to be seen for that.

    path of the action           agent of one user                agent of an action that names the user to run as
    ~/Maildir                    that Maildir                     that user's home: others' homes lie in it
    /mail/%{user.username}       that Maildir                     /mail
    /mail/%{dest.domain}/bob     /mail                            /mail

Where all mail goes to one Maildir the agent sees nothing else, and makes it before the sandbox.  Others are made when
the first mail for them comes.
"""

from dataclasses import dataclass
from os.path import normpath

from smtpd.config import specifier
from smtpd.config.specifier import DIRECTORY, Template, TemplateError, values_of
from smtpd.errand import AgentSpec, Deliver

_OF_USER = frozenset(("user.username", DIRECTORY))


class HomeError(OSError):
    """A home that is none of the homes of this action."""


def recipient_account(post: AgentSpec, mail: Deliver, user: str, home: str) -> tuple[str, str]:
    """The name and home of whom a mail is for, when the agent runs as `user` with that home.  Raises Elsewhere.

    Only where the action names the user to run as, queue has a say in it.  The home is as a table has it, which may be
    anybody's: only below the home of the user that owns all of them.
    """
    if not post.shared:
        return user, home
    if not mail.home:
        return mail.user or user, home
    if normpath(mail.home) != mail.home or not mail.home.startswith(f"{normpath(home).rstrip('/')}/"):
        raise HomeError(f"the home {mail.home} of {mail.user} is not below {home}, the home of {user}")
    return mail.user or user, mail.home


@dataclass(frozen=True)
class MaildirPath:
    template: Template
    post: AgentSpec
    user: str  # that the agent runs as
    home: str

    @classmethod
    def of(cls, post: AgentSpec, user: str, home: str) -> "MaildirPath":
        """Raises Malformed."""
        template = specifier.parse(post.target)
        if not home.startswith("/") and (post.target.startswith("~/") or DIRECTORY in template.names):
            raise TemplateError(f"{post.target} needs a home directory, and there is none")
        return cls(template, post, user, normpath(home))

    @property
    def _is_in_home(self) -> bool:
        return self.post.target.lower().startswith(("~/", f"%{{{DIRECTORY}}}"))

    @property
    def is_fixed(self) -> bool:
        """All mail goes to one Maildir."""
        names = self.template.names | ({DIRECTORY} if self._is_in_home else set())
        return not (names if self.post.shared else names - _OF_USER)

    @property
    def top(self) -> str:
        """The one Maildir, or the directory that all of them are below.  Raises Malformed."""
        if not self.post.shared:
            return self.template.prefix({"user.username": self.user, DIRECTORY: self.home}, self.post.delimiter)
        if self._is_in_home:
            return self.home
        return self.template.prefix({}, self.post.delimiter)

    def path(self, mail: Deliver) -> str:
        """Raises Malformed when there is none for this mail, Elsewhere for a home that it must not be in."""
        user, home = recipient_account(self.post, mail, self.user, self.home)
        values = values_of(mail.sender, mail.recipient, mail.destination, user, home)
        return self.template.path(values, self.post.delimiter)
