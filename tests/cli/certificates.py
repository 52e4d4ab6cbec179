"""Certificates for tests, made with openssl."""

import datetime
import subprocess

_CONFIG = """[ca]
default_ca = test
[test]
database = issued.txt
serial = serial
new_certs_dir = .
default_md = sha256
default_days = 2
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


def openssl(folder, *arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_authority(folder):
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2,
            "-subj", "/CN=Test", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "ca.cnf").write_text(_CONFIG)
    (folder / "issued.txt").write_text("")  # an older authority's are not this one's
    (folder / "serial").write_text("01")


def make_certificate(folder, name, common_name, seconds=None):
    """NAME.crt and NAME.key of `common_name` and of 127.0.0.1, valid for `seconds`, or two days; replaces older ones
    as a whole each."""
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={common_name}", "-addext", f"subjectAltName=DNS:{common_name},IP:127.0.0.1",
            "-keyout", f"{name}.new.key", "-out", f"{name}.csr")
    until = ()
    if seconds is not None:
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
        until = ("-enddate", end.strftime("%Y%m%d%H%M%SZ"))
    openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", *until,
            "-in", f"{name}.csr", "-out", f"{name}.new.crt")
    for kind in ("key", "crt"):
        (folder / f"{name}.new.{kind}").replace(folder / f"{name}.{kind}")
