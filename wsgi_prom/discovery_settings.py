"""The settings by which Prometheus finds the targets: which they are, where they are registered, and how etcd is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsgi_prom import setting_values
from wsgi_prom.errors import SettingError
from wsgi_prom.setting_field import setting

if TYPE_CHECKING:
    from wsgi_prom.setting_values import Address, Registry


@dataclass(frozen=True)
class DiscoverySettings:
    """A part of `Settings`."""

    # One target: a page of each worker has all series of the application, times the workers.
    targets: str = setting(
        "Targets", "application", setting_values.targets, "application or workers",
        "what Prometheus scrapes: the `application` as one target, or each of its `workers` ([discovery.md](discovery.md))",
        shown="application", keyword=False,
    )  # fmt: skip
    # Any: a range has to be opened in a firewall, and may be too small while workers are replaced.
    targets_ports: tuple[int, int] | None = setting(
        "Targets", None, setting_values.ports, "a range of ports, such as 9100-9199",
        "the ports of the workers' pages, such as `9100-9199`, on the host of `WSGI_PROM_BIND`", shown="any that are free",
        keyword=False,
    )  # fmt: skip
    sd: tuple[Registry, ...] = setting(
        "Targets", (), setting_values.registries,
        "a list of file:/PATH.json, http and etcd://[USER@]HOST:PORT[,HOST:PORT...]/PREFIX (etcds:// with TLS)",
        "where the targets are registered: a list of `file:/PATH.json`, `http`, `etcd://HOST:PORT/PREFIX`", keyword=False,
    )  # fmt: skip
    # The exporter's own address, or the machine's name where it listens on all.
    sd_host: str | None = setting(
        "Targets", None, setting_values.host, "a host's name or IP address, without a port",
        "the name or address by which Prometheus reaches this machine", shown="that of `WSGI_PROM_BIND`, or the machine's name",
        keyword=False,
    )  # fmt: skip
    # Three refreshes, of which two may fail. A restart of the exporter takes a second.
    sd_seconds: float = setting(
        "Targets", 15.0, setting_values.seconds, "a number of seconds, 1 to 3600",
        "how long a target stays registered after its exporter was killed, in seconds", shown="15", keyword=False,
    )  # fmt: skip
    etcd_ca_file: str | None = setting(
        "Targets", None, setting_values.file, "the absolute path of a file",
        "the certificates that etcd's is verified by, with `etcds://`", shown="those of certifi", keyword=False,
    )  # fmt: skip
    etcd_cert_file: str | None = setting(
        "Targets", None, setting_values.file, "the absolute path of a file", "the client certificate for etcd", keyword=False,
    )  # fmt: skip
    etcd_key_file: str | None = setting(
        "Targets", None, setting_values.file, "the absolute path of a file", "the key of that certificate", keyword=False,
    )  # fmt: skip
    etcd_password_file: str | None = setting(
        "Targets", None, setting_values.file, "the absolute path of a file",
        "a file with the password of the user in `etcd://USER@HOST:PORT/PREFIX`", keyword=False,
    )  # fmt: skip

    def check_targets(self, bind: Address | None) -> None:
        """
        Raise SettingError if these settings need something of each other, or of the exporter's address *bind*, that is missing.
        """
        if bind is None or bind.path:
            for name, given in (("TARGETS", self.targets), ("SD", ",".join(map(str, self.sd)))):
                if given not in {"", "application"}:
                    raise SettingError(
                        f"WSGI_PROM_{name}={given!r} needs an address at which Prometheus reaches the targets, and WSGI_PROM_BIND="
                        f"{str(bind) if bind else 'off'!r} has none. Set WSGI_PROM_BIND to HOST:PORT."
                    )
        self.check_login()

    def check_login(self) -> None:
        """Raise SettingError if what etcd is given lacks its other half: a user and a password, a certificate and its key."""
        for registry in self.sd:
            if registry.kind != "etcd":
                continue
            where = f"WSGI_PROM_SD={str(registry)!r}"
            if bool(registry.user) != bool(self.etcd_password_file):
                remedy = (
                    "Set WSGI_PROM_ETCD_PASSWORD_FILE"
                    if registry.user
                    else "Name the user: etcd://USER@HOST:PORT/PREFIX"
                )
                raise SettingError(f"{where}: a user and a password are needed together. {remedy}.")
            if bool(self.etcd_cert_file) != bool(self.etcd_key_file):
                missing = "KEY" if self.etcd_cert_file else "CERT"
                raise SettingError(
                    f"{where}: a certificate and its key are needed together. Set WSGI_PROM_ETCD_{missing}_FILE."
                )
