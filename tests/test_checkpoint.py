import errno
import sys

import pytest

from core.config import UserError
from inference import checkpoint
from inference.unpack import UnpackConfig, gguf_file


def model_folder(path):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"max_position_embeddings": 2048}')
    return path


def test_a_local_model_is_itself(tmp_path):
    folder = model_folder(tmp_path / "some" / "model")
    assert checkpoint.resolve(str(folder)) == folder
    assert checkpoint.resolve(str(folder.parent)) == folder  # a run directory, its model in model/


@pytest.mark.parametrize("model", ["/nowhere/model", "./model", "outputs/train/run/model", "model/", "~/model"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(model, monkeypatch):
    monkeypatch.setattr(checkpoint, "_from_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.resolve(model)


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        checkpoint.resolve(str(tmp_path))


def test_hub_errors_are_one_line_naming_the_id_and_the_way_out(monkeypatch):
    hub, httpx2 = pytest.importorskip("huggingface_hub"), pytest.importorskip("httpx2")
    from huggingface_hub import errors

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://hub/owner/name"))
    cases = {
        "hf auth login": errors.GatedRepoError("gated", response=response),
        "not this revision": errors.RevisionNotFoundError("no revision", response=response),
        "no such model": errors.RepositoryNotFoundError("404", response=response),
        "cannot be reached": errors.LocalEntryNotFoundError("offline"),
        "check the network": ConnectionError("name resolution"),
    }
    for expected, error in cases.items():

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(hub, "snapshot_download", fail)
        with pytest.raises(UserError) as caught:
            checkpoint.resolve("owner/name", revision="abc123")
        message = str(caught.value)
        assert expected in message and "owner/name" in message and "abc123" in message
        assert "pass model=<local folder>" in message and "\n" not in message


def test_the_revision_is_passed_on_and_a_full_disk_is_no_hub_error(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(model, revision, **_):
        asked.append((model, revision))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert checkpoint.resolve("owner/name", "v1") == tmp_path
    assert asked == [("owner/name", "v1")]

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.resolve("owner/name")


def test_context_is_checked_unless_rope_is_scaled(tmp_path):
    folder = model_folder(tmp_path)
    checkpoint.check_context(folder, 2048)
    with pytest.raises(UserError, match="max_model_len=2049 exceeds .* 2048"):
        checkpoint.check_context(folder, 2049)
    (folder / "config.json").write_text(
        '{"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}'
    )
    checkpoint.check_context(folder, 8192)


def test_out_of_memory_is_told_from_other_errors():
    assert checkpoint.is_out_of_memory(MemoryError())
    assert checkpoint.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert checkpoint.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert checkpoint.is_out_of_memory(ValueError("No available memory for the cache blocks."))
    assert not checkpoint.is_out_of_memory(ValueError("unknown dtype"))


def test_a_package_is_looked_up_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "ships_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert gguf_file(UnpackConfig(name="x", package="ships_weights")) == package / "tiny.gguf"
    assert "ships_weights" not in sys.modules
    assert gguf_file(UnpackConfig(name="x", file=str(package / "tiny.gguf"))) == package / "tiny.gguf"
    (package / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="ships 2 .gguf files"):
        gguf_file(UnpackConfig(name="x", package="ships_weights"))


def test_nothing_to_unpack_says_so(tmp_path):
    for config, expected in (
        (UnpackConfig(name="x"), "give one of"),
        (UnpackConfig(name="x", package="a", file="b"), "give one of"),
        (UnpackConfig(name="x", package="not_installed_anywhere"), "not installed"),
        (UnpackConfig(name="x", file=str(tmp_path / "no.gguf")), "does not exist"),
    ):
        with pytest.raises(UserError, match=expected):
            gguf_file(config)
