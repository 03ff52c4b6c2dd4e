"""Addresses are read in one place: what is written is what is read, and what is wrong is named."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer.addresses import Address, AddressError, parse_address, parse_addresses, parse_host

labels = st.text("abcxyz019-_", min_size=1, max_size=12)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.replace(".", "").isdigit()),
)


@given(hosts, st.integers(1, 65535))
def test_an_address_is_read_as_it_was_written(host: str, port: int):
    address = Address(host, port)
    assert parse_address(str(address)) == address
    assert parse_host(host) == host
    assert str(Address(parse_host(host), port)) == str(address)


@given(st.ip_addresses(v=6))
def test_every_writing_of_an_ipv6_address_is_the_same_address(address: ipaddress.IPv6Address):
    assert parse_address(f" [{address.exploded}]:8001 ") == parse_address(f"[{address.compressed}]:8001")
    assert parse_host(f"[{address.exploded}]") == parse_host(address.compressed) == address.compressed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no port"),
        ("localhost", "it has no port"),
        (":8001", "it has no port"),
        ("a:", "it has no port"),
        ("a:b", "it has no port"),
        ("a:٣", "it has no port"),
        ("a:-1", "it has no port"),
        ("a:0", "port 0 is not from 1 to 65535"),
        ("a:65536", "port 65536 is not from 1 to 65535"),
        ("a:" + "9" * 5000, "port 999999 is not from 1 to 65535"),
        ("::1:8001", "an IPv6 address stands in brackets"),
        ("[::1]", "it has no port"),
        ("[::1:8001", "this host is no IPv6 address"),
        ("[127.0.0.1]:8001", "this host is no IPv6 address"),
        ("[::1%lo]x:8001", "this host is no IPv6 address"),
        ("[::1%l o]:8001", "this host is no IPv6 address"),
        ("127.0.0.256:8001", "this host is no IPv4 address"),
        ("1:8001", "this host is no IPv4 address"),
        ("http://a:8001", "it is a URL; leave out all but host and port"),
        ("grpc://a", "it has no port"),
        ("grpc://grpc://a:8001", "it is a URL"),
        ("unix:/tmp/a:8001", "this host is neither a name nor an IP address"),
        ("a b:8001", "this host is neither a name nor an IP address"),
        ("a/b:8001", "this host is neither a name nor an IP address"),
        ("ä:8001", "is neither a name nor an IP address"),
        ("x" * 254 + ":1", "is neither a name nor an IP address"),
        ("a\nb:1", "is neither a name nor an IP address"),
    ],
)
def test_what_is_no_address_is_named(text: str, words: str):
    with pytest.raises(AddressError) as caught:
        parse_address(text, "server")
    message = str(caught.value)
    assert message.startswith("server '")
    assert words in message
    assert "expected host:port such as 127.0.0.1:8001" in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize("text", ["", "a:8001", "[::1", "::1]", "1.2.3", "a b", "http://a", ":::"])
def test_what_is_no_host_is_named(text: str):
    with pytest.raises(AddressError, match=r"^host .* expected one such as 127.0.0.1, 0.0.0.0 or ::1$"):
        parse_host(text)


def test_a_list_of_addresses():
    assert parse_addresses("") == parse_addresses(" , ") == ()
    assert parse_addresses("a:1, [0:0::1]:2, [fe80::1%eth0]:3,") == ("a:1", "[::1]:2", "[fe80::1%eth0]:3")
    with pytest.raises(AddressError, match=r"^server 'b': it has no port"):
        parse_addresses("a:1,b", "server")


def test_the_scheme_of_grpc_says_nothing():
    assert parse_address("grpc://edge-1.local:8001/") == parse_address("GRPC://edge-1.local:8001")
    assert parse_addresses("grpc://a:1,[::1]:2") == ("a:1", "[::1]:2")


def test_an_address_that_is_given_twice_is_refused():
    with pytest.raises(AddressError, match="is given twice; name each once"):
        parse_addresses("127.0.0.1:1,a:1, grpc://127.0.0.1:1", "--servers")
