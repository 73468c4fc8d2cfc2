"""Where settings come from, and what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.sandbox.docker import IMAGE
from ops.settings import NAMES, SettingsInvalid, child_environment, load


def test_without_any_source_the_embedded_servers_and_the_defaults_are_used(tmp_path: Path) -> None:
    settings = load({}, {}, tmp_path)
    assert (settings.database_url, settings.nats_url) == (None, None)
    assert (settings.listen, settings.tenant, settings.sandbox) == ("127.0.0.1:8700", "main", "auto")
    assert settings.sandbox_image == IMAGE
    assert (settings.audit_hours, settings.sla_seconds) == (24.0, 120)
    assert set(settings.origins) == set(NAMES)
    assert set(settings.origins.values()) == {"default"}


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "cairn.toml"
    file.write_text('tenant = "file"\nlog_level = "error"\nlease_seconds = 5\nlisten = "127.0.0.1:1"\n')
    environ = {"CAIRN_LOG_LEVEL": "debug", "CAIRN_LISTEN": "127.0.0.1:2", "CAIRN_TENANT": ""}
    settings = load({"listen": "[::1]:3", "sandbox": None}, environ, tmp_path)
    assert (settings.tenant, settings.log_level, settings.listen) == ("file", "debug", "[::1]:3")
    assert settings.lease_seconds == 5.0
    assert settings.origins["tenant"] == str(file)
    assert settings.origins["log_level"] == "CAIRN_LOG_LEVEL"
    assert settings.origins["listen"] == "--listen"
    assert settings.origins["sandbox"] == "default"


def test_a_path_is_relative_to_the_place_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "my.toml").write_text('data_dir = "state"\n')
    assert load({}, {"CAIRN_CONFIG": "etc/my.toml"}, tmp_path).data_dir == folder / "state"
    assert load({}, {"CAIRN_DATA_DIR": "state"}, tmp_path).data_dir == tmp_path / "state"
    assert load({"data_dir": Path("/srv/cairn")}, {"CAIRN_DATA_DIR": "state"}, tmp_path).data_dir == Path("/srv/cairn")


def test_a_secret_may_lie_in_a_file_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://cairn:hunter2@db/cairn\n")
    environ = {"DATABASE_URL_FILE": "url", "NATS_URL": "nats://s3cr3t@bus:4222"}
    settings = load({}, environ, tmp_path)
    assert settings.database_url == "postgresql://cairn:hunter2@db/cairn"
    assert settings.origins["database_url"] == "DATABASE_URL_FILE"
    assert settings.shown()["database_url"] == "postgresql://***@db/cairn"
    assert "hunter2" not in repr(settings)
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    ("flags", "environ", "file", "says"),
    [
        ({"listn": "x"}, {}, "", "unknown setting listn in the flags: did you mean listen?"),
        (
            {},
            {"CAIRN_DATADIR": "x"},
            "",
            "unknown setting CAIRN_DATADIR in the environment: did you mean CAIRN_DATA_DIR",
        ),
        ({}, {}, "tennant = 'x'", "cairn.toml: did you mean tenant?"),
        ({}, {}, "colour = 'x'", "cairn.toml: known are data_dir, database_url"),
        ({}, {}, "tenant = ", "cairn.toml cannot be read: "),
        ({}, {"CAIRN_CONFIG": "gone.toml"}, "", "gone.toml cannot be read: "),
        ({}, {"CAIRN_LEASE_SECONDS": "soon"}, "", "lease_seconds (from CAIRN_LEASE_SECONDS): Expected `float`"),
        ({}, {"CAIRN_LEASE_SECONDS": "0"}, "", "lease_seconds (from CAIRN_LEASE_SECONDS): must be between"),
        ({"sandbox": "jail"}, {}, "", "sandbox (from --sandbox): Invalid enum value 'jail'"),
        ({}, {}, "listen = '8700'", "must be host:port, as 127.0.0.1:8700, not '8700'"),
        ({}, {"CAIRN_TENANT": "A.B"}, "", "tenant (from CAIRN_TENANT): must be a letter, then at most 40 of"),
        ({}, {"DATABASE_URL": "mysql://root:pw@db"}, "", "database_url (from DATABASE_URL): must be postgresql://..."),
        ({}, {"NATS_URL": "nats://a", "NATS_URL_FILE": "b"}, "", "NATS_URL and NATS_URL_FILE are both set"),
        ({}, {"NATS_URL_FILE": "gone"}, "", "NATS_URL_FILE cannot be read"),
    ],
)
def test_what_is_wrong_is_refused_with_its_name_and_source(
    tmp_path: Path, flags: dict[str, Any], environ: dict[str, str], file: str, says: str
) -> None:
    if file:
        (tmp_path / "cairn.toml").write_text(file)
    with pytest.raises(SettingsInvalid) as caught:
        load(flags, environ, tmp_path)
    assert says in str(caught.value)
    assert ":pw@" not in str(caught.value)


def test_variables_of_others_that_begin_like_ours_are_left_alone(tmp_path: Path) -> None:
    others = ("CAIRN_TASK", "CAIRN_TOKEN", "CAIRN_URL", "CAIRN_SERVICE_HOST", "CAIRN_SERVICE_PORT", "CAIRN_PORT")
    load({}, dict.fromkeys(others, "x"), tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another default")
def test_root_keeps_its_data_where_the_user_of_postgres_can_reach_it(tmp_path: Path) -> None:
    assert load({}, {}, tmp_path).data_dir == Path("/var/lib/cairn")


def test_slots_of_roles_are_written_alike_in_a_variable_and_in_what_is_shown(tmp_path: Path) -> None:
    settings = load({}, {"CAIRN_ROLE_SLOTS": "coder=2, reviewer=1", "CAIRN_MAX_WORKFLOWS": "3"}, tmp_path)
    assert settings.role_slots == {"coder": 2, "reviewer": 1}
    assert settings.max_workflows == 3
    assert settings.shown()["role_slots"] == child_environment(settings)["CAIRN_ROLE_SLOTS"] == "coder=2,reviewer=1"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CAIRN_ROLE_SLOTS", "coder"), ("CAIRN_ROLE_SLOTS", "coder=0"), ("CAIRN_ROLE_SLOTS", "A B=1"),
     ("CAIRN_MAX_WORKFLOWS", "0"), ("CAIRN_MAX_QUEUED", "-1"), ("CAIRN_AUDIT_HOURS", "-1"), ("CAIRN_AUDIT_HOURS", "9000"),
     ("CAIRN_SLA_SECONDS", "0"), ("CAIRN_SLA_SECONDS", "1.5"), ("CAIRN_SLA_SECONDS", "86401"), ("CAIRN_MAX_STREAMS", "0")],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused_by_name(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=variable.removeprefix("CAIRN_").lower()):
        load({}, {variable: value}, tmp_path)
