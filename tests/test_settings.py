"""The settings: every valid value is read, and every other has an error that names the remedy."""

from __future__ import annotations

import dataclasses
import os
import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.setting_values import Address, Registry
from wsgi_prom.settings import PREFIX, Settings, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("token_file", "web_config", "etcd_ca_file", "etcd_cert_file", "etcd_key_file", "etcd_password_file")

# Each with texts that are right, and what they mean.
RIGHT = {
    "bind": {
        "off": None,
        "127.0.0.1:9464": Address("127.0.0.1", 9464),
        "0.0.0.0:0": Address("0.0.0.0", 0),
        "localhost:65535": Address("localhost", 65535),
        "host-1.example.org:80": Address("host-1.example.org", 80),
        "[::1]:9464": Address("::1", 9464),
        "[fe80::1%eth0]:9464": Address("fe80::1%eth0", 9464),
        "[::ffff:127.0.0.1]:1": Address("::ffff:127.0.0.1", 1),
        "unix:/run/metrics.sock": Address(path="/run/metrics.sock"),
    },
    "app": dict.fromkeys(["myapp:app"], "myapp:app") | {"a.b.c:d.e": "a.b.c:d.e", "_a1:_b": "_a1:_b"},
    "metrics_path": {"/metrics": "/metrics", "/a/b-c_d": "/a/b-c_d"},
    "buckets": {
        "0.1": (0.1,),
        "0.1,0.5,2.5": (0.1, 0.5, 2.5),
        "0.1 0.5": (0.1, 0.5),
        "0.1, 0.5 , 1e3": (0.1, 0.5, 1000.0),
        "1,+Inf": (1.0,),
    },
    "collect_seconds": {"1": 1.0, "2.5": 2.5, "3600": 3600.0},
    "label_limit": {"1": 1, "1000": 1000, " 7 ": 7},
    "prefix": {"shop_": "shop_", "a:b": "a:b"},
    "names": {"prometheus": "prometheus", "otel": "otel"},
    "disable": {
        "http_request_size_bytes": frozenset({"http_request_size_bytes"}),
        "http_request_size_bytes, http_response_size_bytes": frozenset(
            {"http_request_size_bytes", "http_response_size_bytes"}
        ),
    },
    "queue_buckets": {"0.1": (0.1,), "0.1,0.5 2.5": (0.1, 0.5, 2.5)},
    "first_byte": {"on": True, "TRUE": True, "1": True, "off": False, "false": False, "0": False},
    "status_class": {"on": True, "off": False},
    "app_version": {"1.2": "1.2", "2026-11-28 ä": "2026-11-28 ä"},
    "cpu": {"1": True, "off": False},
    "exemplars": {"on": True, "0": False},
    "name": dict.fromkeys(["shop"], "shop") | {"Shop-2_b": "Shop-2_b", "7" * 64: "7" * 64},
    "socket_mode": {"600": 0o600, "660": 0o660, "0666": 0o666, "777": 0o777},
    "allow": {
        "127.0.0.1": (ip_network("127.0.0.1/32"),),
        "10.0.0.0/8,::1": (ip_network("10.0.0.0/8"), ip_network("::1/128")),
        "10.0.0.0/255.0.0.0 fe80::/10": (ip_network("10.0.0.0/8"), ip_network("fe80::/10")),
        "::ffff:10.0.0.0/104": (ip_network("10.0.0.0/8"),),
        "0.0.0.0/0,::/0": (ip_network("0.0.0.0/0"), ip_network("::/0")),
    },
    **{name: {"/etc/a b.pem": "/etc/a b.pem"} for name in FILES},
    "targets": {"application": "application", "workers": "workers"},
    "targets_ports": {"9100-9199": (9100, 9199), "1-65535": (1, 65535), "9100-9100": (9100, 9100)},
    "sd_host": {"10.0.0.7": "10.0.0.7", "web-1.example.org": "web-1.example.org", "fe80::1": "fe80::1"},
    "sd_seconds": {"1": 1.0, "15": 15.0},
    "push_seconds": {"1": 1.0, "10": 10.0},
    "sd": {
        "http": (Registry("http"),),
        "file:/run/targets/shop.json": (Registry("file", "/run/targets/shop.json"),),
        "etcd://10.0.0.2:2379/targets/shop": (
            Registry("etcd", "/targets/shop", (Address("10.0.0.2", 2379),)),
        ),
        "file:/a,b.json,http,etcds://a:1,[::1]:2/shop/": (
            Registry("file", "/a,b.json"),
            Registry("http"),
            Registry("etcd", "/shop", (Address("a", 1), Address("::1", 2)), tls=True),
        ),
    },
    "labels": {"a=1": (("a", "1"),), "a=1,b_2=x=y": (("a", "1"), ("b_2", "x=y")), "a=": (("a", ""),)},
}
WRONG = {
    "name": ["a/b", "..", "-a", "a.b", "ä", "a b", "7" * 65],
    "bind": ["9464", ":9464", "host", "host:", "host:x", "host:65536", "host:123456", "::1:9464", "[::1]", "unix:",
             "unix:relative", "http://host:1", "host:1/metrics", "a b:1", "OFF", "host:-1", "host:1 ", "host:٣"],
    "app": ["my-app", "myapp:", ":app", "my-app:app", "myapp:app(x)", "a..b:c", "a:b:c", "1a:b", "a:b\n"],
    "metrics_path": ["metrics", "/", "/a b", "/a?b", "/a#b", "http://host/metrics", "/metrics\n"],
    "buckets": [",", "x", "1,x", "2,1", "1,1", "nan", "1,nan", "nan,1", "inf", "1,inf,2", "1;2"],
    "collect_seconds": ["0", "0.5", "-1", "nan", "3601", "off", "5s"],
    "label_limit": ["0", "-1", "1.5", "many", "1e3"],
    "prefix": ["1shop", "shop-", "shop ", "é"],
    "names": ["opentelemetry", "OTEL", "prometheus,otel"],
    "disable": ["http_requests_total", "http_server_active_requests", "http_request_size_bytes nonsense"],
    "queue_buckets": ["2,1", "nan"],
    "first_byte": ["yes please", "2"],
    "status_class": ["maybe"],
    "app_version": ["1" * 129, "1\n2"],
    "cpu": ["user"],
    "exemplars": ["sampled"],
    "labels": ["a", "=1", "1a=1", "a-b=1", "method=x", "http_route=x", "le=1", "pid=1", "__a=1"],
    "socket_mode": ["6", "0o660", "1660", "688", "rw", "660 ", "-660", "400", "066", "٦٦٠"],
    "allow": [",", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "::1/129", "*", "all"],
    **{name: ["relative.pem", "/a\0b", "/", "~/token"] for name in FILES},
    "exclude": ["(", "/a [", "*"],
    "targets": ["worker", "all", "Workers"],
    "targets_ports": ["9100", "9199-9100", "0-10", "9100-65536", "a-b", "9100:9199"],
    "sd_host": ["web-1:9464", "http://web-1", "a b", "[::1]"],
    "sd_seconds": ["0", "3601", "soon"],
    "push_seconds": ["0", "3601", "soon"],
    "sd": ["https", "file:targets.json", "file:/targets.yml", "file:/.json", "etcd://host/prefix", "etcd://host:2379", "etcd://host:2379/",
           "etcd://host:2379,/a", "etcd://host:0/a", "http,", "consul://host:8500", "http://host:9464/sd", "file:/a.json,other"],
}  # fmt: skip


SETTINGS = {field.name: field for field in dataclasses.fields(Settings)}


def cases(table: dict) -> list[tuple[str, str]]:
    return [(name, text) for name, texts in table.items() if name in SETTINGS for text in texts]


def test_every_setting_is_in_these_tables() -> None:
    """Each setting has valid and invalid values in the tables of this test."""
    # What is excluded is a function, and is tried with the middleware.
    assert set() == set(SETTINGS) - set(RIGHT) - {"exclude"}
    assert set() == set(SETTINGS) - set(WRONG)


def test_defaults() -> None:
    """
    Without variables the exporter is on loopback, no path of the application is taken, and the buckets are the
    library's.
    """
    from prometheus_client import Histogram

    found = Settings.read({})
    assert Address("127.0.0.1", 9464) == found.bind
    assert (None, None, 1000) == (found.app, found.metrics_path, found.label_limit)
    assert Histogram.DEFAULT_BUCKETS[:-1] == found.buckets


@pytest.mark.parametrize(("name", "text"), cases(RIGHT))
def test_a_right_value_is_read(name: str, text: str) -> None:
    """Each valid text of a variable is read as its value."""
    assert RIGHT[name][text] == getattr(Settings.read({PREFIX + name.upper(): text}), name)


@pytest.mark.parametrize(("name", "text"), cases(WRONG))
def test_a_wrong_value_is_refused(name: str, text: str) -> None:
    """The error names the variable, the value and the remedy."""
    variable = PREFIX + name.upper()
    right = SETTINGS[name].metadata["right"]
    with pytest.raises(SettingError) as caught:
        Settings.read({variable: text})
    assert f"{variable}={text!r} is not {right}." == str(caught.value)


@pytest.mark.parametrize(("name", "value"), [
    ("bind", 9464), ("app", object), ("metrics_path", b"/metrics"), ("buckets", 1), ("buckets", ("x",)),
    ("buckets", ()), ("buckets", (None,)), ("label_limit", "x"), ("label_limit", ()), ("label_limit", 0),
    ("prefix", ""), ("app", ""), ("label_limit", float("inf")), ("socket_mode", 660), ("socket_mode", None.__class__), ("allow", 10.5), ("allow", ()),
    ("allow", (b"10",)), ("token_file", 3), ("web_config", b"/a"),
])  # fmt: skip
def test_a_wrong_keyword_is_refused(name: str, value: object) -> None:
    """The error for a keyword of the wrong type names the keyword."""
    with pytest.raises(SettingError) as caught:
        Settings.read({}, **{name: value})
    assert str(caught.value).startswith(f"{name}={value!r} is not ")


def test_a_password_in_a_url_is_shown_to_nobody() -> None:
    """A URL with a password is refused, and the error does not hold the password."""
    with pytest.raises(SettingError) as caught:
        Settings.read({"WSGI_PROM_SD": "etcd://shop:pa/ss@host:2379/shop"})
    assert str(caught.value).startswith(
        "WSGI_PROM_SD='etcd://***@host:2379/shop' is not a list of file:/PATH.json, http and "
    )


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"BIND": "off", "TARGETS": "workers"}, "WSGI_PROM_TARGETS='workers' needs an address at which Prometheus reaches"),
        ({"BIND": "unix:/a", "SD": "http"}, "WSGI_PROM_BIND='unix:/a' has none. Set WSGI_PROM_BIND to HOST:PORT."),
        ({"SD": "etcd://shop@a:1/b"}, "WSGI_PROM_SD='etcd://shop@a:1/b': a user and a password are needed together. Set WSGI_PROM_ETCD_PASS"),
        ({"SD": "etcd://a:1/b", "ETCD_PASSWORD_FILE": "/a"}, "Name the user: etcd://USER@HOST:PORT/PREFIX."),
        ({"SD": "etcds://a:1/b", "ETCD_KEY_FILE": "/a"}, "a certificate and its key are needed together. Set WSGI_PROM_ETCD_CERT_FILE."),
    ],
)  # fmt: skip
def test_settings_that_need_another(environ: dict[str, str], told: str) -> None:
    """Settings of the targets that cannot work without another name it."""
    with pytest.raises(SettingError) as caught:
        Settings.read({PREFIX + name: value for name, value in environ.items()})
    assert told in str(caught.value)


def test_keywords_win_over_the_environment() -> None:
    """A keyword wins over the environment; None is as if it were not given."""
    environ = {"WSGI_PROM_LABEL_LIMIT": "5", "WSGI_PROM_METRICS_PATH": "/environment"}
    found = Settings.read(environ, label_limit=7, metrics_path=None)
    assert (7, "/environment") == (found.label_limit, found.metrics_path)


def test_buckets_may_be_a_sequence() -> None:
    """Buckets may be a tuple or list of numbers."""
    expected = Settings.read({}, buckets="0.5,1")
    assert expected == Settings.read({}, buckets=(0.5, 1))
    assert expected == Settings.read({}, buckets=[0.5, 1.0, float("inf")])
    assert hash(expected) == hash(Settings.read({}, buckets=[0.5, 1]))


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_variable_is_as_if_it_were_not_set(name: str) -> None:
    """An empty variable counts as unset, since Compose and unit files set variables to nothing."""
    assert Settings.read({}) == Settings.read({PREFIX + name.upper(): ""})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("WSGI_PROM_BINDD", "WSGI_PROM_BIND"),
        ("WSGI_PROM_BUKETS", "WSGI_PROM_BUCKETS"),
        ("WSGI_PROM_TOKEN", "WSGI_PROM_TOKEN_FILE"),
        ("WSGI_PROM_Bind", "WSGI_PROM_BIND"),
        ("WSGI_PROM_METRIC_PATH", "WSGI_PROM_METRICS_PATH"),
    ],
)
def test_an_unknown_variable_is_a_warning(
    variable: str, meant: str, caplog: pytest.LogCaptureFixture, in_child: Callable[..., Any]
) -> None:
    """An unknown variable is logged once with the nearest setting, and without its value, which may be a secret."""

    def read() -> list[str]:
        found = [Settings.read({variable: "s3cret"}) for _ in range(3)]
        assert [Settings()] * 3 == found
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]

    expected = f"WARNING {variable} is not a setting of wsgi_prom and is ignored. Did you mean {meant}?"
    assert [expected] == in_child(read)


@pytest.mark.parametrize("variable", ["WSGI_PROM_PORT", "WSGI_PROM_", "WSGI_PROM_XYZZY"])
def test_an_unknown_variable_that_is_near_to_none_is_told_with_all(variable: str) -> None:
    """If no setting is similar, the warning names all."""
    (message,) = unknown_variables({variable: "9464"}).values()
    assert message.startswith(f"{variable} is not a setting of wsgi_prom and is ignored. The settings are ")
    for name in SETTINGS:
        assert PREFIX + name.upper() in message


def service_links(service: str, port: int = 9464, name: str = "metrics-port") -> dict[str, str]:
    """
    Return what Kubernetes puts into the containers of a namespace for a Service.
    """
    prefix = service.upper().replace("-", "_")
    links = {
        f"{prefix}_SERVICE_HOST": "10.0.0.9",
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_SERVICE_PORT_{name.upper().replace('-', '_')}": str(port),
    }
    for protocol in ("tcp", "udp"):
        links |= {
            f"{prefix}_PORT": f"{protocol}://10.0.0.9:{port}",
            f"{prefix}_PORT_{port}_{protocol.upper()}": f"{protocol}://10.0.0.9:{port}",
            f"{prefix}_PORT_{port}_{protocol.upper()}_PROTO": protocol,
            f"{prefix}_PORT_{port}_{protocol.upper()}_PORT": str(port),
            f"{prefix}_PORT_{port}_{protocol.upper()}_ADDR": "10.0.0.9",
        }
    return links


@pytest.mark.parametrize(
    "service", ["wsgi-prom", "wsgi-prom-bind", "wsgi-prom-app", "wsgi-prom-a-b2", "wsgi-prom-port"]
)
def test_variables_of_a_kubernetes_service_are_no_word_worth(service: str) -> None:
    """Variables of a Kubernetes Service whose name begins with ours are ignored without a warning."""
    assert {} == unknown_variables(service_links(service))
    assert Settings() == Settings.read(service_links(service))


def test_no_setting_has_a_name_that_kubernetes_gives() -> None:
    """No setting has a name that Kubernetes could inject."""
    endings = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_UDP", "_SCTP", "_PROTO", "_ADDR"]
    assert [] == [
        name
        for name in SETTINGS
        if f"_{name.upper()}".endswith(tuple(endings)) or "SERVICE_PORT" in name.upper()
    ]


def test_an_unknown_keyword_is_refused() -> None:
    """The error for an unknown keyword lists the known ones."""
    with pytest.raises(
        SettingError, match=r"bindd='x' is not a setting of wsgi_prom\. The settings are .*app, "
    ):
        Settings.read({}, bindd="x")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"label": {"a": "b"}}, "label={'a': 'b'} is not a keyword of PrometheusMiddleware. Did you mean labels?"),
        ({"exclude": "/a", "metric_path": "/m"}, "metric_path='/m' is not a keyword of PrometheusMiddleware. Did you mean metrics_path?"),
        ({"registry": None}, "registry=None is not a keyword of PrometheusMiddleware. The keywords are metrics_path, "),
        ({"bind": ":1"}, "bind=':1' is not a keyword of PrometheusMiddleware. It belongs to the server or the exporter: set WSGI_PROM_BIND in"),
        *(
            ({name: None}, f"{name}=None is not a keyword of PrometheusMiddleware. It belongs to the server or the exporter: set WSGI_PROM_{name.upper()} in")
            for name in ("socket_mode", "app")
        ),
        *(
            ({name: "10.0.0.0/8" if name == "allow" else "/etc/x"}, f"has no effect in PrometheusMiddleware without metrics_path. Give metrics_path too, or set WSGI_PROM_{name.upper()} in")
            for name in ("allow", "token_file", "web_config")
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_keyword_that_does_nothing_in_the_middleware_is_refused(
    keywords: dict[str, object], message: str
) -> None:
    """The error for a setting that the middleware cannot use names the nearest keyword, or where to set it."""
    with pytest.raises(SettingError, match=re.escape(message)):
        Settings.of_middleware(keywords)


def test_a_keyword_of_the_metrics_readers_counts_with_a_path_of_the_environment() -> None:
    """A keyword for the readers of the metrics is accepted if the environment gives metrics_path."""
    os.environ["WSGI_PROM_METRICS_PATH"] = "/metrics"
    assert "/etc/x" == Settings.of_middleware({"token_file": "/etc/x"}).token_file


def test_other_variables_are_nobodys_business() -> None:
    """Variables without our prefix are ignored."""
    assert Settings.read({}) == Settings.read({"WSGI_PROMX": "1", "PATH": "/bin", "wsgi_prom_bind": "x"})


def test_the_processs_environment_is_read() -> None:
    """Without an argument, os.environ is read as it is now."""
    os.environ["WSGI_PROM_LABEL_LIMIT"] = "3"
    assert 3 == Settings.read().label_limit


@pytest.mark.parametrize("text", [text for text in RIGHT["bind"] if text != "off"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    """str() of an address is the text that one would set."""
    assert text == str(RIGHT["bind"][text])


def test_a_setting_error_is_of_the_packages_and_a_value_error() -> None:
    """A SettingError is both a WsgiPromError and a ValueError."""
    assert issubclass(SettingError, WsgiPromError)
    assert issubclass(SettingError, ValueError)
