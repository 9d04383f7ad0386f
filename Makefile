# make run [PORT=2525]  set up what is missing and start smtpd on 127.0.0.1
# make test             all tests that this machine can run, and a list of the others with the reasons
# make test ROOM=queue  the tests in tests/queue only; also ROOM="smtp queue/test_store.py", and OPTIONS="-k lock -x"
# make fresh            both of these on a new, minimal Debian 13 in a directory of its own
# make bench            measure delivery and relaying, side by side with Postfix and OpenSMTPD
# make check            ruff and mypy
# make install          below /usr/local, or another prefix=
# make uninstall        removes the files that make install has installed

VENV   := .venv
BIN    := $(VENV)/bin

# su does not change PATH, and a user's PATH may lack the sbin directories.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: venv run test fresh bench check install uninstall clean

venv: $(VENV)/.complete

$(VENV)/.complete: requirements-dev.lock pyproject.toml etc/venv.sh etc/programs.py
	@sh etc/venv.sh $(VENV)

run: venv
	@sh etc/try.sh

test: venv
	@ROOM="$(ROOM)" sh tests/run.sh $(OPTIONS)

fresh: venv
	@sh tests/fresh.sh

bench: venv
	@$(BIN)/python -m tests.bench

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: venv
	@sh etc/install.sh

uninstall:
	@sh etc/uninstall.sh

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
