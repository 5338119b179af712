import pytest

from frankenlab.runtime.command import command_line


def test_a_command_is_as_one_would_type_it():
    given = ["/home/me/.venv/bin/snakemake", "--profile", "profiles/local", "--config", "a=b c"]
    assert command_line(given) == "snakemake --profile profiles/local --config 'a=b c'"


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "hf_token=s3cret"],
        ["--storage-s3-secret-key", "s3cret"],
        ["--storage-s3-access-key=s3cret"],
        ["--default-storage-prefix", "https://me:s3cret@host/path"],
        ["--password", "s3cret", "all"],
    ],
)
def test_secrets_are_hidden(words):
    found = command_line(["snakemake", *words, "results/x"])
    assert "s3cret" not in found and "[hidden]" in found and found.endswith("results/x")


def test_what_follows_a_flag_is_not_hidden_with_it():
    found = command_line(["snakemake", "--tokens", "--cores", "2"])
    assert found == "snakemake --tokens --cores 2"
