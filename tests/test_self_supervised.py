"""Encoders fitted beside generators: what is composed, what is carried, what is compared, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PAINTER, PICTURES
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from collapse_jax import config, data, policies, settings
from collapse_jax.config import schema
from collapse_jax.core import batch, registry
from collapse_jax.core.errors import UsageError
from collapse_jax.core.worlds import same_world
from collapse_jax.metrics import representations
from collapse_jax.planning.grid import make_grid
from collapse_jax.planning.memory_estimate import check_memory
from collapse_jax.planning.options import Options
from collapse_jax.planning.plan import make_plan
from collapse_jax.settings import self_supervised
from collapse_jax.settings.self_supervised import SelfSupervisedTruth
from collapse_jax.training import ssl_objectives
from collapse_jax.training.nets import classifier

TINY = {"generator": PAINTER, "features": 4, "width": 8, "depth": 1, "steps": 5, "warmup": 1, "batch_size": 8,
        "num_probe": 30, "num_test": 12, "k": 3}  # fmt: skip
KEY = jax.random.key(5)


def task_of(setting):
    return setting.observe.args[0]


@pytest.mark.nightly
def test_the_generator_is_what_it_is_alone_and_the_first_encoder_is_kept():
    setting = self_supervised(**TINY)
    world = PAINTER.world()
    ours = world._replace(truth=SelfSupervisedTruth(world.truth, None, None, {}))
    rows = PAINTER.sample_real(KEY, world, 9)

    @jax.jit
    def go(rows):
        alone = PAINTER.fit(KEY, batch.make_batch(rows), PAINTER.init(KEY, world))
        first = setting.fit(KEY, batch.make_batch(rows), setting.init(KEY, ours))
        second = setting.fit(jax.random.key(1), batch.make_batch(rows), first)
        return alone, first, second, PAINTER.sample(KEY, alone, 5), setting.sample(KEY, first, 5)

    alone, first, second, *drawn = go(rows)
    for a, b in zip(jax.tree.leaves((alone, drawn[0])), jax.tree.leaves((first.generator, drawn[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    for model in (first, second):
        assert jax.tree.all(jax.tree.map(np.array_equal, model.first, first.learner["encoder"]))
    assert not jax.tree.all(jax.tree.map(np.array_equal, second.first, second.learner["encoder"]))
    np.testing.assert_array_equal(PAINTER.sample_real(KEY, world, 3), setting.sample_real(KEY, ours, 3))


@pytest.mark.nightly
def test_an_embedding_without_its_variance_term_dies():
    """VICReg on real digits: without the term the embedding is nearly constant, and the features lose rank."""
    source = data.digits(pca=None, labels=True)
    rows = jnp.asarray(source.arrays, jnp.float32)[:500]
    ranks, spreads = [], []
    for variance in (25.0, 0.0):
        painter = settings.diffusion(source, steps=60, num_test=300)
        setting = self_supervised(painter, ssl_objectives.vicreg(variance=variance), steps=400)
        nets, fit = task_of(setting).nets, setting.fit.args[1]

        @jax.jit
        def go(rows, nets=nets, fit=fit):
            params = fit(KEY, batch.make_batch(rows), None)
            features = nets.encode(params["encoder"], rows[:200, :-1])
            return representations.effective_rank(features), nets.head(params, "project", features).std(0).mean()

        rank, spread = go(rows)
        ranks.append(float(rank))
        spreads.append(float(spread))
    print(ranks, spreads)
    assert ranks[1] < 0.5 * ranks[0]
    assert spreads[1] < 0.05 * spreads[0]


def test_controls_are_those_of_pixels():
    world = self_supervised(**TINY).world()
    rows, test = np.asarray(PICTURES.arrays)[:30], PICTURES.held_out(12)
    (controls,) = world.truth.controls.values()
    x, other = representations.standardise_features(rows[:, :-1], test[:, :-1])
    model = Ridge(alpha=representations.RIDGE * 30).fit(x, np.eye(3)[rows[:, -1].astype(int)])
    assert controls["pixels_probe_accuracy"] == pytest.approx((model.predict(other).argmax(1) == test[:, -1]).mean())
    near = KNeighborsClassifier(3, metric="cosine").fit(rows[:, :-1], rows[:, -1])
    assert controls["pixels_knn_accuracy"] == pytest.approx(near.score(test[:, :-1], test[:, -1]))
    assert near.score(world.truth.views[0], test[:, -1]) == pytest.approx(controls["pixels_knn_accuracy_views"])
    assert not np.allclose(*world.truth.views)
    assert 0 < controls["random_probe_accuracy"] <= 1


@pytest.mark.nightly
def test_worlds_are_told_apart_and_planned_without_training(monkeypatch):
    world = self_supervised(**TINY).world()
    monkeypatch.setattr(classifier, "train_classifier", None)
    outline = self_supervised(**TINY).info.world_shapes()
    alike = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), outline.truth, world.truth)
    assert jax.tree.all(alike)
    assert same_world(
        outline,
        self_supervised(**TINY | {"learning_rate": 0.1, "objective": ssl_objectives.byol()}).info.world_shapes(),
    )
    for other in ({"width": 9}, {"k": 2}, {"num_probe": 20}):
        assert not same_world(outline, self_supervised(**TINY | other).info.world_shapes()), other
    made = lambda **options: self_supervised(**TINY | options)  # noqa: E731
    check_memory(
        make_plan(make_grid(made, policies.replace(), num_samples=8, num_generations=2), Options(num_chains=1))
    )


CONFIG = """
setting:
  kind: self_supervised
  generator: {kind: diffusion, source: {kind: digits, pca: null, labels: true}, steps: 100}
  objective: {kind: simclr, temperature: 0.5}
  features: 8
policies: [replace]
num_samples: 10
num_generations: 2
num_chains: 1
"""


def load(tmp_path, *overrides):
    (tmp_path / "experiment.yaml").write_text(CONFIG)
    return config.load(tmp_path / "experiment.yaml", overrides)


@pytest.mark.fast
def test_configs_nest_generators_and_objectives(tmp_path):
    experiment = load(tmp_path)
    setting, _ = experiment.build()
    assert setting.info.source.name == "digits"
    assert task_of(setting).pretext.name == "simclr"
    assert config.from_dict(config.to_dict(experiment)) == experiment
    assert [spec.kind for spec in schema.spec_types("objective")] == list(registry.factories("objective"))
    axes = "{product: {setting.objective: [vicreg, masked], setting.generator.steps: [60, 70]}}"
    swept = load(tmp_path, "--sweep", axes)
    assert [axis.dim for axis in swept.grid().axes] == ["objective", "steps"]
    for path, words in (
        ("--setting.generator.steps=0", "setting.generator: steps must be a whole number of at least 1"),
        ("--setting.generator=kde", "setting: generator kde has no source of images"),
        ("--setting.generator=self_supervised", "setting.generator.kind: unknown 'self_supervised'"),
        ("--setting.objective.temperature=0", "setting.objective: temperature must be a number above 0"),
    ):
        with pytest.raises(UsageError, match=words):
            load(tmp_path, path).build()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"generator": 3}, r"generator must be a Setting, such as settings.diffusion\(\), not 3"),
        ({"generator": settings.gaussian(2)}, "generator gaussian has no source of images"),
        ({"generator": settings.diffusion(data.digits(pca=None))}, "source digits has no labels"),
        ({"generator": settings.kde(source=PICTURES)}, "generator kde is not trained by gradients"),
        ({"objective": "vicreg"}, r"objective must be a Pretext, such as objectives.vicreg\(\), not 'vicreg'"),
        ({"encoder": "resnet"}, "encoder must be one of mlp, conv, vit"),
        ({"heads": 2}, "heads is for encoder: vit"),
        *(({name: 0}, name) for name in ("features", "steps", "batch_size", "num_probe", "num_test", "k")),
        ({"rows_at_once": 0}, "rows_at_once"),
        ({"warmup": 5}, r"warmup must be below steps \(5\), not 5"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"start": "base"}, "start must be one of"),
        ({"crop": 2.0}, "crop must be a number from 0 to 1"),
        ({"turn": float("nan")}, "turn"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        self_supervised(**TINY | options)
    assert "\n" not in str(error.value)
