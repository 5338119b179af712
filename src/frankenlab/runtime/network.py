"""Which jobs may ask the Hugging Face hub: those that download, and no others.

The nodes of a cluster often have no network, and what a job fetches by itself is neither pinned nor
known to Snakemake. The hub's libraries read at their import whether they may ask it, so each
process of a workflow says so in the environment that its jobs inherit.
"""

import os

# With these, `huggingface_hub` and `datasets` use what is on this machine.
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
# In it a download finds what the user's own environment says of these, as a job's does not.
OWN = "FRANKENLAB_{}"


def forbid() -> None:
    """Have the jobs of this process use what is on this machine."""
    for name in OFFLINE:
        os.environ.setdefault(OWN.format(name), os.environ.get(name, ""))
        os.environ[name] = "1"


def allow() -> None:
    """Give this process back what the user's own environment says, before it imports the hub's
    libraries."""
    for name in OFFLINE:
        # An empty value is not the same to them as none.
        os.environ.pop(name, None)
        if own := os.environ.get(OWN.format(name)):
            os.environ[name] = own
