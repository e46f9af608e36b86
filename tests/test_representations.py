"""What encoders learn by and what they are judged by, each against NumPy, SciPy, scikit-learn or PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from collapse_jax import data
from collapse_jax.core import registry
from collapse_jax.metrics import representations
from collapse_jax.training import augmentation, ssl_objectives
from collapse_jax.training.nets.encoders import ENCODERS, make_encoder

KEY, SHAPE = jax.random.key(3), (6, 8, 1)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_order():
    """A test draws the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


A, B = (RNG.normal(size=(10, 4)).astype(np.float32) for _ in range(2))


def rows_of_length_1(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nt_xent(a, b, temperature):
    z, losses = rows_of_length_1(np.vstack([a, b])), []
    for i in range(len(z)):
        partner = (i + len(a)) % len(z)
        odds = [np.exp(z[i] @ z[j] / temperature) for j in range(len(z)) if j != i]
        losses.append(-np.log(np.exp(z[i] @ z[partner] / temperature) / np.sum(odds)))
    return np.mean(losses)


def vicreg(a, b, invariance, variance, covariance):
    loss = invariance * np.mean((a - b) ** 2)
    for z in (a, b):
        c = np.cov(z.T)
        loss += variance * np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
        loss += covariance * (np.square(c).sum() - np.square(np.diag(c)).sum()) / z.shape[1]
    return loss


def barlow(a, b, redundancy):
    c = sum(np.outer(x, y) for x, y in zip(*((z - z.mean(0)) / z.std(0) for z in (a, b)), strict=True)) / len(a)
    return sum((1 - c[i, i]) ** 2 if i == j else redundancy * c[i, j] ** 2 for i in range(4) for j in range(4))


def byol(a, b):
    return np.square(rows_of_length_1(a) - rows_of_length_1(b)).sum(1).mean()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("ours", "reference", "numbers"),
    [
        (ssl_objectives.nt_xent_loss, nt_xent, (0.3,)),
        (ssl_objectives.vicreg_loss, vicreg, (25.0, 20.0, 2.0)),
        (ssl_objectives.vicreg_loss, vicreg, (1.0, 0.0, 0.0)),
        (ssl_objectives.vicreg_loss, vicreg, (0.0, 1.0, 0.0)),
        (ssl_objectives.vicreg_loss, vicreg, (0.0, 0.0, 1.0)),
        (ssl_objectives.barlow_loss, barlow, (0.1,)),
        (ssl_objectives.byol_loss, byol, ()),
    ],
)
def test_losses_are_those_of_numpy(ours, reference, numbers):
    np.testing.assert_allclose(ours(A, B, *numbers), reference(A, B, *numbers), rtol=1e-4)
    tiny = 0.1 * A
    np.testing.assert_allclose(ours(tiny, A, *numbers), reference(tiny, A, *numbers), rtol=2e-3, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("name", registry.factories("objective"))
def test_losses_and_their_slopes_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(1)
    both, hidden = (rng.normal(size=(2, 12, 7)) * np.geomspace(0.3, 2, 7)).astype(np.float32), rng.random((12, 7)) < 0.4
    pair = lambda loss: lambda both: loss(*both)  # noqa: E731

    def simclr(both):  # as a classifier of 2 B classes
        z = functional.normalize(both.reshape(24, 7), dim=1)
        logit = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
        return functional.cross_entropy(logit, torch.arange(24).roll(12))

    def vicreg(both):
        loss = 25 * functional.mse_loss(*both)
        for z in both:
            lacking = functional.relu(1 - (torch.var(z, 0) + 1e-4).sqrt())
            between = torch.cov(z.T).flatten()[:-1].view(6, 8)[:, 1:]  # off the diagonal
            loss = loss + 20 * lacking.mean() / 2 + 2 * between.square().sum() / 7
        return loss

    def barlow_twins(both):
        a, b = (functional.batch_norm(z, None, None, training=True) for z in both)
        lacking = a.T @ b / 12 - torch.eye(7)
        weight = torch.where(torch.eye(7, dtype=bool), 1.0, 0.1)
        return (weight * lacking.square()).sum()

    ours, theirs = {
        "simclr": (pair(lambda a, b: ssl_objectives.nt_xent_loss(a, b, 0.3)), simclr),
        "vicreg": (pair(lambda a, b: ssl_objectives.vicreg_loss(a, b, 25.0, 20.0, 2.0)), vicreg),
        "barlow_twins": (pair(lambda a, b: ssl_objectives.barlow_loss(a, b, 0.1)), barlow_twins),
        "byol": (pair(ssl_objectives.byol_loss), pair(lambda a, b: 2 - 2 * functional.cosine_similarity(a, b).mean())),
        "masked": (
            pair(lambda a, b: ssl_objectives.masked_loss(a, b, hidden)),
            lambda both: functional.mse_loss(*both[:, torch.tensor(hidden)]),
        ),
    }[name]
    found, slope = jax.value_and_grad(ours)(jnp.asarray(both))
    leaf = torch.tensor(both, requires_grad=True)
    expected = theirs(leaf)
    expected.backward()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(slope, leaf.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.fast
def test_hidden_pixels_are_whole_cells():
    hidden = np.asarray(ssl_objectives.draw_hidden_pixels(KEY, (8, 8, 2), 200, 0.3, 4))
    assert hidden.shape == (200, 128)
    cells = hidden.reshape(200, 4, 2, 4, 2, 2)
    assert (cells == cells[:, :, :1, :, :1, :1]).all()
    assert (cells[:, :, 0, :, 0, 0].sum((1, 2)) == 5).all()  # of 16, 4.8 rounded
    assert abs(hidden.mean(0) - 5 / 16).max() < 4 * np.sqrt(5 / 16 * 11 / 16 / 200)
    assert ssl_objectives.draw_hidden_pixels(KEY, (8, 8, 1), 3, 0.0, 4).sum() == 3 * 4  # at least one cell
    said, shown = RNG.normal(size=(2, 200, 128))
    expected = np.square(said - shown)[hidden].mean()
    np.testing.assert_allclose(ssl_objectives.masked_loss(said, shown, hidden), expected, rtol=1e-5)


@pytest.mark.fast
def test_byol_predicts_what_the_average_says_and_moves_it_not():
    """By hand: a network that is one matrix and heads that are one matrix each."""

    class Nets:
        encode = staticmethod(lambda params, x: x @ params)
        head = staticmethod(lambda params, name, h: h @ params["heads"][name])

    def params(seed):
        w = np.random.default_rng(seed).normal(size=(3, 4, 4))
        return {"encoder": w[0], "heads": {"project": w[1], "predict": w[2]}}

    x, step = RNG.normal(size=(5, 4)), {}

    def view(key, rows):  # the two views differ as their keys do
        return step.setdefault(str(jax.random.key_data(key)), rows + len(step))

    now, average, loss = params(1), params(2), ssl_objectives.byol().loss
    found, slope = jax.value_and_grad(lambda p: loss(Nets, p[0], p[1], KEY, x, view))((now, average))
    views = np.concatenate([*step.values()])
    said, seen = (views @ p["encoder"] @ p["heads"]["project"] for p in (now, average))
    said, seen = (np.split((z - z.mean(0)) / z.std(0), 2) for z in (said, seen))
    said = [s @ now["heads"]["predict"] for s in said]
    np.testing.assert_allclose(found, (byol(said[0], seen[1]) + byol(said[1], seen[0])) / 2, rtol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope[1]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slope[0]))


@pytest.mark.fast
def test_views_of_strength_0_are_the_images():
    x = RNG.uniform(size=(5, 48)).astype(np.float32)
    still = augmentation.AugmentationStrength(*[0.0] * 6)
    np.testing.assert_allclose(augmentation.draw_view(still, SHAPE, KEY, x), x, atol=1e-6)
    for name in augmentation.AugmentationStrength._fields:  # each does something, and another key something else
        one = still._replace(**{name: 0.4})
        a, b = (np.asarray(augmentation.draw_view(one, SHAPE, key, x)) for key in jax.random.split(KEY))
        assert not np.allclose(a, x, atol=1e-3), name
        assert not np.allclose(a, b, atol=1e-3), name


@pytest.mark.fast
def test_images_are_moved_as_by_scipy():
    x = RNG.uniform(size=(4, 6, 8, 2)).astype(np.float32)
    scale, angle = RNG.uniform(0.6, 1.2, 4), RNG.uniform(-2, 2, 4)
    shift = RNG.uniform(-2, 2, (4, 2))
    found = augmentation.move_images(x, *(jnp.asarray(v, jnp.float32) for v in (scale, angle, shift)))
    for i in range(4):
        place = np.indices((6, 8)).reshape(2, -1).T - [2.5, 3.5] - shift[i]
        turn = np.array([[np.cos(angle[i]), np.sin(angle[i])], [-np.sin(angle[i]), np.cos(angle[i])]])
        source = (scale[i] * place @ turn.T + [2.5, 3.5]).T.reshape(2, 6, 8)
        for channel in range(2):
            expected = map_coordinates(x[i, ..., channel], source, order=1, mode="grid-constant")
            np.testing.assert_allclose(found[i, ..., channel], expected, atol=1e-5)
    square = x[:1, :, :6, :1]
    turned = augmentation.move_images(square, jnp.ones(1), jnp.full(1, np.pi / 2), jnp.zeros((1, 2)))
    np.testing.assert_allclose(turned[0, ..., 0], np.rot90(square[0, ..., 0], 1), atol=1e-5)


@pytest.mark.fast
def test_contrast_and_mask():
    x = RNG.uniform(0.5, 1, size=(2, 10, 10, 1)).astype(np.float32)
    changed = np.asarray(augmentation.scale_contrast(x, jnp.asarray([0.5, 2.0])))
    np.testing.assert_allclose(changed.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(changed.std((1, 2, 3)), x.std((1, 2, 3)) * [0.5, 2.0], rtol=1e-4)
    dark = np.asarray(augmentation.mask_squares(x, jnp.asarray([[0.5, 0.5], [0.0, 0.96]]), 0.4))[..., 0] == 0
    assert dark[0, 3:7, 3:7].all()
    assert dark[0].sum() == 16
    assert dark[1, :2, 8:].all()
    assert dark[1].sum() == 4


def features(num=60, width=5, classes=3):
    label = np.arange(num) % classes
    x = RNG.normal(size=(num, width)) * [1, 5, 0.1, 2, 1] + 0.7 * np.eye(classes, width)[label]
    return x.astype(np.float32), label


@pytest.mark.parametrize("classes", [2, 3])
def test_probes_are_scikit_learns(classes):
    (x, label), (test, _) = features(classes=classes), features(40, classes=classes)
    x[:, 4], test[:, 4] = 3.0, 4.0  # a dead column is no help
    scaler = StandardScaler().fit(x)
    ours, theirs = jax.jit(representations.standardise_features)(x, test), (scaler.transform(x), scaler.transform(test))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    np.testing.assert_array_equal(ours[1][:, 4], 0)
    theirs[1][:, 4] = 0
    hot = np.eye(classes)[label]
    ridge = Ridge(alpha=representations.RIDGE * len(x), tol=1e-10).fit(theirs[0], hot)
    found = jax.jit(representations.fit_ridge_probe, static_argnums=3)(ours[0], label, ours[1], classes)
    np.testing.assert_allclose(found, ridge.predict(theirs[1]), atol=1e-4)
    model = LogisticRegression(C=1 / (representations.RIDGE * len(x)), tol=1e-10, max_iter=10_000)
    expected = model.fit(theirs[0].astype(float), label).predict_proba(theirs[1])
    logits = jax.jit(representations.fit_logistic_probe, static_argnums=3)(ours[0], label, ours[1], classes)
    found = jax.nn.softmax(logits, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_logistic_probe_is_iterated_to_its_optimum():
    """Eight Newton steps leave logits of 128 good features off by 7; predictions must agree with the optimum's."""
    source, rng = data.digits(pca=None, labels=True), np.random.default_rng(128)
    first, then = rng.normal(size=(64, 24)), rng.normal(size=(24, 128))
    x, test = (np.tanh(rows[:, :-1] @ first @ then / 8) for rows in (source.arrays[:500], source.held_out(350)))
    ours = jax.jit(representations.standardise_features)(*(part.astype(np.float32) for part in (x, test)))
    label = source.arrays[:500, -1].astype(int)
    model = LogisticRegression(C=1 / (representations.RIDGE * 500), solver="newton-cg", tol=1e-9, max_iter=1000)
    expected = model.fit(np.asarray(ours[0], float), label).decision_function(np.asarray(ours[1], float))
    found = jax.jit(representations.fit_logistic_probe, static_argnums=3)(ours[0], label, ours[1], 10)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), expected, atol=0.05)


@pytest.mark.fast
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_vote_as_scikit_learns(k):
    (x, label), (test, _) = features(), features(50)
    model = KNeighborsClassifier(k, metric="cosine").fit(x, label)
    np.testing.assert_array_equal(representations.classify_by_neighbors(x, label, test, 3, k), model.predict(test))


def test_accuracies_are_shares_of_what_is_told():
    (x, label), (test, truth) = features(90), features(60)
    seen = representations.ProbeFeatures(x, label, test, truth, test[::-1], test)
    found, by_class = jax.jit(representations.measure_accuracies, static_argnums=(1, 2))(seen, 4, 3)
    scaled = representations.standardise_features(x, test)
    right = np.asarray(representations.fit_ridge_probe(scaled[0], label, scaled[1], 4)).argmax(1) == truth
    np.testing.assert_allclose(found["probe_accuracy"], right.mean(), rtol=1e-5)
    np.testing.assert_allclose(by_class[:3], [right[truth == c].mean() for c in range(3)], rtol=1e-5)
    assert np.isnan(by_class[3])  # none is held out
    np.testing.assert_allclose(
        found["knn_accuracy"], (representations.classify_by_neighbors(x, label, test, 4, 3) == truth).mean()
    )
    np.testing.assert_allclose(
        found["knn_accuracy_views"], (representations.classify_by_neighbors(x, label, test[::-1], 4, 3) == truth).mean()
    )
    assert set(found) == {m.name for m in representations.ACCURACIES}


@pytest.mark.fast
@pytest.mark.parametrize(("rows", "columns"), [(30, 7), (30, 8), (4, 6), (20, 1), (90, 40)])
def test_singular_values_are_numpys(rows, columns):
    x = RNG.normal(size=(rows, columns)) @ np.diag(np.geomspace(1, 1e-3, columns)) @ RNG.normal(size=(columns, columns))
    found = jax.jit(representations.singular_values)(x.astype(np.float32))
    expected = np.zeros(columns)
    expected[: min(rows, columns)] = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6 * expected[0])
    np.testing.assert_array_equal(jax.jit(representations.singular_values)(np.zeros((3, columns), np.float32)), 0)


@pytest.mark.fast
def test_spreads_of_features_are_those_of_numpy():
    x, other = (features(40)[0] for _ in range(2))
    share = np.linalg.svd(x, compute_uv=False)
    share /= share.sum()
    np.testing.assert_allclose(representations.effective_rank(x), np.exp(-(share * np.log(share)).sum()), rtol=1e-4)
    eigen = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(representations.covariance_spectrum(x), eigen / eigen.sum(), rtol=1e-3, atol=1e-6)
    a, b = rows_of_length_1(x), rows_of_length_1(other)
    np.testing.assert_allclose(representations.view_alignment(x, other), np.square(a - b).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        representations.feature_uniformity(x), np.log(np.exp(-2 * pdist(a, "sqeuclidean")).mean()), rtol=1e-4
    )
    grams = [np.cov(z.T, bias=True) for z in (x, other)]
    across = (x - x.mean(0)).T @ (other - other.mean(0)) / 40
    cka = np.square(across).sum() / np.sqrt(np.square(grams[0]).sum() * np.square(grams[1]).sum())
    np.testing.assert_allclose(representations.linear_cka(x, other), cka, rtol=1e-4)
    turned = 3 * x @ np.linalg.qr(RNG.normal(size=(5, 5)))[0].astype(np.float32) + 1
    np.testing.assert_allclose(representations.linear_cka(x, turned), 1, rtol=1e-5)
    alike = np.broadcast_to(x[:1], x.shape)  # trivial collapse: one direction, no spread
    np.testing.assert_allclose(
        [
            representations.effective_rank(alike),
            representations.feature_uniformity(alike),
            representations.linear_cka(alike, x),
        ],
        [1, 0, 0],
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "encoder", [name if name == "mlp" else pytest.param(name, marks=pytest.mark.nightly) for name in ENCODERS]
)
def test_encoders_see_whole_images_one_by_one(encoder):
    nets = make_encoder(encoder, (4, 8, 2), 5, {"width": 8, "depth": 2}, {"project": (5, 6, 3)})
    params = jax.jit(nets.init)(KEY)
    x = jax.random.uniform(KEY, (3, 64))
    encode = jax.jit(lambda x: nets.encode(params["encoder"], x))
    said, shown = encode(x), np.asarray(encode(x.at[0].add(jax.random.normal(KEY, (64,)))))
    assert said.shape == (3, 5)
    assert not np.allclose(shown[0], said[0], atol=1e-3)
    np.testing.assert_allclose(shown[1:], said[1:], rtol=1e-4, atol=1e-5)
    slope = jax.jit(jax.jacobian(lambda x: nets.encode(params["encoder"], x[None])[0].sum()))(x[0])
    assert (np.abs(slope) > 1e-7).mean() > 0.95  # every pixel is seen
    assert nets.head(params, "project", said).shape == (3, 3)
    assert 0.05 < float(said.std()) < 5


@pytest.mark.fast
@pytest.mark.parametrize(
    ("encoder", "given", "words"),
    [
        ("resnet", {}, "encoder must be one of mlp, conv, vit, not 'resnet'"),
        ("mlp", {"heads": 2}, "heads is for encoder: vit, not for mlp"),
        ("conv", {"patch": 2}, "patch is for encoder: vit, not for conv"),
        ("conv", {"depth": 4}, "depth must be so small that 4 x 8 pixels can be halved 3 times, not 4"),
        ("vit", {"patch": 3}, "patch must divide the 4 x 8 pixels of an image, not 3"),
        ("vit", {"heads": 3}, "width must be a multiple of the 3 heads"),
        ("mlp", {"width": 0}, "width must be a whole number of at least 1"),
    ],
)
def test_sizes_that_do_not_fit(encoder, given, words):
    with pytest.raises(ValueError, match=words) as error:
        make_encoder(encoder, (4, 8, 2), 5, given, {})
    assert "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ssl_objectives.simclr(temperature=0), "temperature must be a number above 0"),
        (lambda: ssl_objectives.simclr(width=0), "width must be a whole number of at least 1"),
        (lambda: ssl_objectives.vicreg(variance=-1), "variance must be a number of at least 0"),
        (lambda: ssl_objectives.barlow_twins(redundancy=float("nan")), "redundancy must be a number of at least 0"),
        (lambda: ssl_objectives.byol(momentum=1.5), "momentum must be a number from 0 to 1"),
        (lambda: ssl_objectives.masked(share=2), "share must be a number from 0 to 1"),
        (lambda: ssl_objectives.masked(cells=1), "cells must be a whole number of at least 2"),
        (
            lambda: augmentation.check_strength(augmentation.AugmentationStrength(crop=1.5)),
            "crop must be a number from 0 to 1",
        ),
        (
            lambda: augmentation.check_strength(augmentation.AugmentationStrength(noise=-1)),
            "noise must be a number of at least 0",
        ),
    ],
)
def test_numbers_out_of_range_are_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
