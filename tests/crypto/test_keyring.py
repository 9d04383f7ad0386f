"""Keys come and go: which of them sign, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.crypto import keyring as module
from smtpd.crypto.keyring import REPLACED_KEY_TIME, ROUNDS_MAX, Keyring
from smtpd.tls.openssl_library import TlsUnusable
from tests.tls.world import key, key_pem


class Clock:
    """What `later` is, moved by hand."""

    def __init__(self):
        self.now = 0.0
        self.waiting = []

    def __call__(self, seconds, function):
        self.waiting.append((self.now + seconds, function))

    def pass_by(self, seconds=REPLACED_KEY_TIME):
        self.now += seconds
        due = [function for time, function in self.waiting if time <= self.now]
        self.waiting = [(time, function) for time, function in self.waiting if time > self.now]
        for function in due:
            function()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keyring(clock):
    return Keyring(clock)


@pytest.fixture
def take(tmp_path, keyring):
    """take(kind): the digest of the key."""

    def take(kind, content=None):
        path = tmp_path / "key"
        path.write_bytes(content or key_pem(key(*kind) if isinstance(kind, tuple) else key(kind)))
        with open(path, "rb") as file:
            return keyring.take(file.fileno())

    return take


def test_old_and_new_keys_sign_until_a_minute_after_the_change(take, keyring, clock):
    old = take("rsa2048")
    keyring.use_taken()
    clock.pass_by()
    new = take("p256")
    assert {old, new} == keyring.keys.keys()
    keyring.use_taken()
    clock.pass_by(REPLACED_KEY_TIME - 1)
    assert {old, new} == keyring.keys.keys()
    clock.pass_by(1)
    assert {new} == keyring.keys.keys()


def test_each_round_has_a_minute_of_its_own(take, keyring, clock):
    """54 s after the first change comes a second one, and a handshake that began before it is not over 6 s later."""
    first = take("rsa2048")
    keyring.use_taken()
    second = take("p256")
    keyring.use_taken()
    clock.pass_by(REPLACED_KEY_TIME - 6)
    third = take("p384")
    keyring.use_taken()
    clock.pass_by(6)
    assert keyring.keys.keys() == {second, third}, first
    clock.pass_by(REPLACED_KEY_TIME - 7)
    assert keyring.keys.keys() == {second, third}
    clock.pass_by(1)
    assert keyring.keys.keys() == {third}


def test_a_key_that_comes_back_is_kept_as_long_as_its_last_change_says(take, keyring, clock):
    old = take("rsa2048")
    keyring.use_taken()
    take("p256")
    keyring.use_taken()
    clock.pass_by(20)
    assert take("rsa2048") == old
    keyring.use_taken()
    clock.pass_by(20)
    new = take("p384")
    keyring.use_taken()
    clock.pass_by(20)  # a minute after the first change
    assert old in keyring.keys
    clock.pass_by(40)
    assert keyring.keys.keys() == {new}


def test_a_key_that_two_names_share_stays_when_one_of_them_changes(take, keyring, clock):
    shared = take("rsa2048")
    assert take("rsa2048") == shared
    keyring.use_taken()
    new = take("p256")
    assert take("rsa2048") == shared
    keyring.use_taken()
    clock.pass_by()
    assert keyring.keys.keys() == {shared, new}


def test_a_round_that_is_refused_leaves_what_was(take, keyring, clock):
    used = take("rsa2048")
    keyring.use_taken()
    take("p256")
    keyring.drop()
    assert keyring.keys.keys() == {used}
    clock.pass_by()
    assert keyring.keys.keys() == {used}


def test_a_refused_round_removes_no_key_that_handshakes_use(take, keyring, clock):
    old = take("rsa2048")
    keyring.use_taken()
    new = take("p256")
    keyring.use_taken()
    take("rsa2048")
    take("p384")
    keyring.drop()
    assert keyring.keys.keys() == {old, new}
    clock.pass_by()
    assert keyring.keys.keys() == {new}


def test_the_end_of_a_round_removes_no_key_of_the_round_under_way(take, keyring, clock):
    take("rsa2048")
    keyring.use_taken()
    take("p256")
    keyring.use_taken()
    taken = take("p384")
    clock.pass_by()
    assert taken in keyring.keys
    keyring.use_taken()
    assert taken in keyring.keys


def test_a_file_without_a_key_changes_nothing(take, keyring):
    used = take("rsa2048")
    keyring.use_taken()
    with pytest.raises(TlsUnusable):
        take("", b"garbage")
    assert keyring.keys.keys() == {used}


class Fake:
    def __init__(self, public):
        self.public = public


@pytest.fixture
def fake_keys(monkeypatch):
    """The descriptor of a key is its digest."""
    monkeypatch.setattr(module, "PrivateKey", type("PrivateKey", (), {"read": Fake}))


@pytest.mark.usefixtures("fake_keys")
def test_however_many_rounds_there_are_a_bounded_number_of_keys_is_kept(keyring, clock):
    for number in range(3 * ROUNDS_MAX):
        keyring.take(number)
        keyring.use_taken()
        assert len(keyring.keys) <= ROUNDS_MAX + 1
    last = 3 * ROUNDS_MAX - 1
    assert keyring.keys.keys() == {*range(last - ROUNDS_MAX, last)} | {last}
    clock.pass_by()
    assert keyring.keys.keys() == {last}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use_taken"), st.frozensets(st.integers(0, 4), min_size=1)),
        st.tuples(st.just("drop"), st.frozensets(st.integers(0, 4), min_size=1)),
        st.tuples(st.just("wait"), st.integers(1, 70)),
    ),
    max_size=20,
)


@given(STEPS)
def test_in_any_order_a_key_signs_for_a_minute_after_it_was_replaced_and_no_longer(steps):
    """A key is there exactly if it is in use, or a round of the last minute took it out of use."""
    clock, used, until = Clock(), frozenset(), {}
    module_key, module.PrivateKey = module.PrivateKey, type("PrivateKey", (), {"read": Fake})
    try:
        keyring = Keyring(clock)
        for step, value in steps:
            if step == "wait":
                clock.pass_by(value)
            else:
                for public in value:
                    keyring.take(public)
                assert keyring.keys.keys() >= used | value
                if step == "use_taken":
                    until |= dict.fromkeys(used - value, clock.now + REPLACED_KEY_TIME)
                    used = value
                getattr(keyring, step)()
            lingering = {public for public, time in until.items() if time > clock.now}
            assert keyring.keys.keys() == used | lingering
    finally:
        module.PrivateKey = module_key
