"""What is mirrored to wandb never decides whether a run ends."""

from types import SimpleNamespace

from core.tracking import close_wandb


def test_a_server_that_is_gone_at_the_end_fails_nothing(capsys):
    def finish():
        raise TimeoutError

    close_wandb(SimpleNamespace(finish=finish, settings=SimpleNamespace(sync_dir="outputs/train/a/wandb/run-1")))
    assert "wandb sync outputs/train/a/wandb/run-1 sends the rest" in capsys.readouterr().err
