"""No network for any process but a download. A folder on PYTHONPATH, so each Python imports it.

Whoever asks for an address or a connection is written down in the file $FRANKENLAB_TEST_NETWORK and
refused, for a library may go on without an answer as if nothing had been. At its end each process
says there whether the hub was switched off for it, and which heavy libraries it imported.
"""

import atexit
import os
import re
import socket
import sys

LOG = os.environ["FRANKENLAB_TEST_NETWORK"]
# What takes from a third of a second to seconds.
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "scipy.stats", "altair", "sklearn")

HERE = (None, "", "localhost", socket.gethostname())


def program():
    """Return what this process runs; a script of a rule without the random part of its name."""
    return re.sub(r"^tmp\w+\.", "", os.path.basename(sys.argv[0]))


def write(*words):
    with open(LOG, "a", encoding="utf-8") as file:
        print(program(), *words, file=file)


def asked(what):
    """Write down that this process asked for something; refuse it, unless it downloads."""
    write("asked", what)
    if not program().startswith("download_"):
        raise OSError(f"there is no network for {what}")


def write_imported():
    write("imported", *(name for name in HEAVY if name in sys.modules))


def guarded(connect):
    def guard(self, address):
        if self.family != socket.AF_UNIX:
            asked(address)
        return connect(self, address)

    return guard


def getaddrinfo(host, *arguments, original=socket.getaddrinfo, **keywords):
    if host not in HERE:
        asked(host)
    return original(host, *arguments, **keywords)


atexit.register(lambda: write("offline", os.environ.get("HF_HUB_OFFLINE", "")))
atexit.register(write_imported)
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
socket.getaddrinfo = getaddrinfo
