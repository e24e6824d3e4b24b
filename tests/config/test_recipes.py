"""docs/recipes.md is correct: the paper's settings, and valid commands."""

import pathlib
import re
import shlex

import pytest

import commands as program
from efficientdet_tf.config import MODELS, Config, known_keys
from efficientdet_tf.training import optimizers

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODELS)
def test_the_papers_recipe(name):
    config = Config.from_yaml("paper", name)
    assert config.training.epochs == (
        600 if name in ("efficientdet-d7", "efficientdet-d7x") else 300
    )
    assert config.training.batch_size == 128
    loss, augmentation, optimizer = config.loss, config.augmentation, config.optimizer
    assert (loss.focal_alpha, loss.focal_gamma, loss.box_weight) == (0.25, 1.5, 50.0)
    assert (augmentation.scale_min, augmentation.scale_max) == (0.1, 2.0)
    assert augmentation.horizontal_flip and augmentation.policy == "none"
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 4e-5)
    assert (optimizer.ema_decay, optimizer.clip_norm) == (0.9998, 10.0)
    b0 = config.model.backbone == "efficientnet-b0"
    assert config.model.backbone_survival_prob == (1.0 if b0 else 0.8)


@pytest.mark.parametrize(("batch_size", "peak"), [(128, 0.16), (64, 0.08), (2048, 2.56)])
def test_the_papers_learning_rate(batch_size, peak):
    """From 0 over the first epoch, then along a cosine to 0, scaled with the batch."""
    schedule = optimizers.build(
        Config.from_yaml("paper", "efficientdet-d0").optimizer,
        total_steps=300 * 100,
        steps_per_epoch=100,
        batch_size=batch_size,
    )._learning_rate
    rates = [float(schedule(step)) for step in (0, 50, 100, 100 + 299 * 50, 300 * 100)]
    assert rates == pytest.approx([0, peak / 2, peak, peak / 2, 0], abs=1e-6)


def commands() -> list[list[str]]:
    code = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in code.splitlines() if "train.py" in line]


@pytest.mark.parametrize("command", commands(), ids=lambda words: words[-1])
def test_commands_are_understood(command, tmp_path, monkeypatch):
    """Commands fail at the missing data only: flags, settings and recipes are valid."""
    arguments = [
        word for word in command[command.index("train.py") + 1 :] if "strategy" not in word
    ]
    monkeypatch.chdir(tmp_path)
    done = program.call("train.py", *arguments)
    assert done.returncode == 1
    [data] = [word.partition("=")[2] for word in arguments if word.startswith("--train_data")]
    assert done.stderr.splitlines()[-1].startswith(f"train: {data}: ")


def test_settings_that_are_named_exist():
    named = re.findall(
        r"`(?:--set )?((?:model|loss|optimizer|augmentation|training)\.\w+)[=`]", TEXT
    )
    assert len(set(named)) > 10
    assert set(named) <= set(known_keys())


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links
    assert all((REPOSITORY / "docs" / link).exists() for link in links)
