"""HTTPS: it is served with a certificate that fits, and one that does not is told before anything starts."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import time

import httpx2
import pytest

from daemons import perdure, process
from perdure.backends.errors import Misuse
from perdure.runtime.serve.config import load

STORE = ("--store", "memory:", "--listen", "127.0.0.1:0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with certificates and keys, right and wrong."""
    folder = tmp_path_factory.mktemp("tls")
    for name, more in (("", ["-nodes"]), ("other-", ["-nodes"]), ("locked-", ["-passout", "pass:secret"])):
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout {name}key.pem -out {name}cert.pem -days 1 -subj /CN=localhost"
        try:
            subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost", *more], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed: it makes the certificates")
    cert, key = (folder / "cert.pem").read_text(), (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(cert + key)
    (folder / "damaged.pem").write_text(cert[:200] + cert[220:])
    (folder / "text.pem").write_text("nothing")
    (folder / "folder.pem").mkdir()
    return folder


@pytest.mark.parametrize("settings", [("tls_cert=cert.pem", "tls_key=key.pem"), ("tls_cert=both.pem",)])
def test_it_serves_https(made, tmp_path, settings):
    files = [one.replace("=", f"={made}/") for one in settings]
    context = ssl.create_default_context(cafile=str(made / "cert.pem"))
    with process(tmp_path, *STORE, *(f"--set={one}" for one in files)) as daemon:
        port = daemon.url.rpartition(":")[2]
        with httpx2.Client(base_url=f"https://localhost:{port}", verify=context) as client:
            answers = [client.get("/health/live").status_code for _ in range(3)]
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://localhost:{port}/health/live")

    assert daemon.url.startswith("https://")
    assert answers == [200] * 3


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("absent.pem", "key.pem", "tls_cert = 'absent.pem' cannot be read: No such file or directory"),
        ("folder.pem", "key.pem", "tls_cert = 'folder.pem' cannot be read: Is a directory"),
        ("text.pem", "key.pem", "tls_cert = 'text.pem' holds no certificate"),
        ("key.pem", "key.pem", "tls_cert = 'key.pem' holds no certificate"),
        ("damaged.pem", "key.pem", "tls_cert = 'damaged.pem' or its key is damaged"),
        ("cert.pem", "absent.pem", "tls_key = 'absent.pem' cannot be read: No such file or directory"),
        ("cert.pem", "text.pem", "tls_key = 'text.pem' holds no private key"),
        ("cert.pem", "", "tls_cert = 'cert.pem' holds no private key: name the PEM file with the certificate's as tls_key"),
        ("cert.pem", "other-key.pem", "tls_key = 'other-key.pem' holds a private key that is not that of the certificate in tls_cert = 'cert.pem'"),
        ("locked-cert.pem", "locked-key.pem", "tls_key = 'locked-key.pem' holds a key with a passphrase"),
    ],
)
def test_a_certificate_that_does_not_fit_is_told_with_its_setting(made, monkeypatch, cert, key, told):
    monkeypatch.chdir(made)

    with pytest.raises(Misuse, match=re.escape(told)):
        load(flags={"store": "memory:", "tls_cert": cert, "tls_key": key})


def test_a_daemon_with_a_bad_certificate_does_not_start(tmp_path):
    done = perdure("serve", "shop:app", "--store", "lmdb:store", "--listen", "127.0.0.1:0", "--set", "tls_cert=nofile", folder=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "perdure: the configuration: tls_cert = 'nofile' cannot be read: No such file or directory\n"
    assert not (tmp_path / "store").exists()


def test_a_reload_with_a_bad_certificate_reloads_nothing_and_says_so(made, tmp_path):
    (tmp_path / "cert.pem").write_bytes((made / "both.pem").read_bytes())
    (tmp_path / "serve.toml").write_text('store = "memory:"\nlisten = ["127.0.0.1:0"]\ntls_cert = "cert.pem"\n')
    with process(tmp_path, "--config", "serve.toml") as daemon:
        (tmp_path / "cert.pem").write_text("nothing")
        (tmp_path / "serve.toml").write_text('store = "memory:"\nlisten = ["127.0.0.1:0"]\ntls_cert = "cert.pem"\npage_max = 5\n')
        daemon.signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while not any("nothing was reloaded" in line for line in daemon.told) and time.monotonic() < until:
            time.sleep(0.02)
        told = "".join(daemon.told)
        context = ssl.create_default_context(cafile=str(made / "cert.pem"))
        answer = httpx2.get(daemon.url.replace("127.0.0.1", "localhost") + "/health/live", verify=context)

    assert "nothing was reloaded: the configuration: tls_cert = 'cert.pem' holds no certificate" in told
    assert answer.status_code == 200
