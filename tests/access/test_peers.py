"""Users, groups and certificates as roles."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from platformd.access.peers import Peers, read_grant
from platformd.core.errors import InvalidInput
from platformd.core.peers import PeerCredentials
from platformd.core.settings import AccessSettings
from platformd.model.access import NOBODY


def peers(uid: int = 1000, gid: int = 100, **settings: object) -> Peers:
    return Peers(AccessSettings(**settings), uid=uid, gid=gid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peer", "role"),
    [
        (PeerCredentials(1, 0, 0), "admin"),
        (PeerCredentials(1, 1000, 5), "admin"),
        (PeerCredentials(1, 2000, 100), "admin"),
        (PeerCredentials(1, 2000, 5, frozenset({7, 100})), "admin"),
        (PeerCredentials(1, 2000, 5, frozenset({7})), "reader"),
    ],
)
def test_the_daemons_own_are_admins(peer: PeerCredentials, role: str) -> None:
    """Root, the daemon's user, and its group as the primary or a supplementary one; others look."""
    assert peers().principal(peer).role == role


def test_others_may_be_nobody() -> None:
    """``others`` closes the socket to whoever is not named."""
    assert peers(others="none").principal(PeerCredentials(1, 2000, 5)).role is None


def test_the_first_grant_that_fits_counts() -> None:
    """Users and groups by number, in the order of the settings; a tenant binds."""
    found = peers(peers=("user:2000=tenant:survey", "group:7=operator", "user:2001=reader"))
    one = found.principal(PeerCredentials(1, 2000, 7))
    assert (one.role, one.tenant, one.how) == ("tenant", "survey", "peer")
    assert found.principal(PeerCredentials(1, 2001, 5, frozenset({7}))).role == "operator"
    assert found.principal(PeerCredentials(1, 2001, 5)).role == "reader"


def test_names_of_this_machine_are_looked_up() -> None:
    """A user and a group by name; the principal is called as this machine calls the user."""
    root, group = pwd.getpwuid(0).pw_name, grp.getgrgid(0).gr_name
    assert peers(peers=(f"group:{group}=operator",)).principal(PeerCredentials(1, 4711, 0)).role == "operator"
    assert peers(peers=(f"user:{root}=reader",)).principal(PeerCredentials(1, 0, 0)).name == f"user:{root}"
    assert peers().principal(PeerCredentials(1, 4294967000, 5)).name == "user:4294967000"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Each grant that cannot be is named with its place."""
    wrong = (
        "alice=reader",
        "user:x=king",
        "user:1=tenant",
        "user:2=admin:survey",
        "group:no-such-group=reader",
        "cn:a=reader",
    )
    with pytest.raises(InvalidInput) as caught:
        peers(peers=wrong, certificates=("user:1=reader", "cn:a=reader:BAD NAME"))
    assert len(caught.value.errors) == len(wrong) + 2
    assert {e.path for e in caught.value.errors} >= {"access.peers[0]", "access.certificates[1]"}


def test_certificates_are_known_by_their_names() -> None:
    """The first grant whose name the certificate has; one of no known name may do nothing."""
    found = peers(certificates=("dns:gw.example.org=reader", "cn:planner=tenant:survey", "uri:urn:x=y:z=operator"))
    one = found.certificate([("cn", "planner"), ("dns", "other")])
    assert (one.name, one.role, one.tenant, one.how) == ("certificate:planner", "tenant", "survey", "certificate")
    assert found.certificate([("uri", "urn:x=y:z")]).role == "operator"
    assert found.certificate([("cn", "gw.example.org")]).role is None
    assert found.certificate([]) == NOBODY


def test_a_grant_is_read() -> None:
    """A reader may be of all tenants or of one."""
    assert (read_grant("user:a=reader").tenant, read_grant("user:a=reader:survey").tenant) == (None, "survey")
    assert os.geteuid() == Peers(AccessSettings())._uid
