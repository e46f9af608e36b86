"""Show that a refactoring left all results the same bits: ``python tests/same_results.py COMMIT``, from a clone.

The script checks COMMIT out into a temporary git worktree. There and in the working tree it runs the same small
experiments, each tree in a process of its own, and compares every metric bit for bit. A NaN equals a NaN. It exits with
status 0 where all is the same, with 1 where something differs, is missing or fails, and with 2 for a usage mistake.
"""

import contextlib
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Metrics that have another name in the working tree than at the commit, in some settings: {old name: new names}. Of
# these names the one is meant that the same experiment has in the working tree.
METRICS: dict[str, tuple[str, ...]] = {
    "class_bias": ("class_total_variation",),
    "copied_run": ("copied_from_real",),
    "cross_entropy": ("test_nll", "test_nll_per_symbol"),
    "divergence": ("reverse_kl",),
    "entropy": ("unigram_entropy",),
    "excess_loss": ("forward_kl_per_symbol",),
    "excess_loss_error": ("forward_kl_per_symbol_error",),
    "excess_risk": ("excess_mse", "forward_kl"),
    "first_loss": ("first_model_nll_per_symbol",),
    "hallucinated": ("hallucinated_mass",),
    "kl": ("reverse_kl",),
    "kl_rate": ("forward_kl_per_symbol",),
    "log_excess_risk": ("log_excess_mse",),
    "log_trace_ratio": ("log_training_variance_ratio",),
    "parameter_error": ("squared_error_of_coefficients",),
    "squared_error_of_mean": ("squared_error_of_generated_mean",),
    "symbols_alive": ("training_symbols_alive",),
    "tail_mass": ("low_density_mass",),
    "test_error": ("test_mse",),
    "test_loss": ("test_nll_per_symbol", "test_negative_elbo"),
    "variance": ("fitted_variance",),
    "vocabulary_alive": ("generated_symbols_alive",),
}
SUFFIXES = ("_by_model", "_together", "")  # what an ecosystem adds to a name
# Arguments that have another name: {(factory, new name): old name}. The experiments below use the new names.
ARGUMENTS: dict[tuple[str, str], str] = {}

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"num_samples": 8, "num_generations": 4}
CHAINS = {"num_chains": 6, "seed": 3}
FOREIGN = ("JAX_", "XLA_", "TF_", "LIBTPU_", "PYTHON")  # variables that the two processes must not inherit


def named(factory: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Give arguments the names that a factory knows them by, which at the commit may be the old ones."""
    known = inspect.signature(factory).parameters
    return {name if name in known else ARGUMENTS.get((factory.__name__, name), name): x for name, x in given.items()}


def make(factory: Callable[..., Any], **given: Any) -> Any:
    """Call a factory."""
    return factory(**named(factory, given))


def experiments() -> dict[str, dict[str, Any]]:
    """Name the experiments: for each what ``sweep`` takes, beside sizes and backend.

    Three policies serve where none is given. A factory stands beside the axes that its arguments are.
    """
    import collapse_jax as cj
    from collapse_jax.data import texts

    s, p, c = cj.settings, cj.policies, cj.curators
    classes = np.repeat(np.arange(3), 20)
    points = np.random.default_rng(0).normal(size=(60, 2)) + np.eye(3)[classes, :2]
    labelled = make(cj.data.array, values=np.column_stack([points, classes]), labels=True)
    digits = make(cj.data.digits, pca=None, labels=True)
    few = {"num_test": 12}
    brief = {"steps": 10, "batch_size": 8, "learning_rate": 0.05, "width": 8, "depth": 1, **few}
    warm = {"warmup": 2, **brief}
    images = make(s.vae, source=digits, latent=2, num_shown=2, **warm)
    encoder = make(s.self_supervised, generator=images, features=4, num_probe=20, k=3, **warm)
    text = make(texts.markov_chain, num_symbols=8)
    once, grow, twice = [p.replace()], [p.accumulate()], [p.replace(), p.accumulate()]
    nine = [
        make(p.accumulate_subsample, num=7, replacement=True), make(p.fixed_real, share=0.25),
        make(p.fresh_real, share=0.25), make(p.weighted_fresh, weight=0.3), make(p.window, k=2),
        make(p.decay, gamma=0.7), make(p.contaminated, share=0.5), make(p.mix, real=5, synthetic=3),
        make(p.growing, sizes=(9, 11)),
    ]  # fmt: skip
    curators = [
        make(c.best_of, k=2), make(c.top_fraction, fraction=0.6), make(c.detect, accuracy=0.8),
        make(c.self_correct, strength=1.0), make(c.diverse, k=2),
    ]  # fmt: skip
    plain = {
        "gaussian": make(s.gaussian, dim=2, **few),
        "kde": make(s.kde, bandwidth=0.3, **few),
        "discrete": make(s.discrete, probabilities=[0.05, 0.1, 0.15, 0.3, 0.25, 0.15]),
        "poisson": make(s.poisson, rate=3.0),
        "linear regression": make(s.linear_regression, dim=2, ridge=0.1, **few),
        "logistic regression": make(s.logistic_regression, dim=2, ridge=0.1, **few),
        "gaussian mixture": make(s.gaussian_mixture, components=2, steps=4, floor=0.3, **few),
        "ideal diffusion": make(s.ideal_diffusion, solver_steps=4, **few),
        "markov": make(s.markov, smoothing=0.2, length=6),
        "language model": make(s.language_model, text=text, heads=1, length=6, ngram=2, gram_bits=2**11, **warm),
    }
    gaussian, poisson, markov = plain["gaussian"], plain["poisson"], plain["markov"]
    bernoulli, flow = make(s.bernoulli, p=0.3), make(s.flow_matching, sampler_steps=4, **brief)
    diffusion = make(s.diffusion, source=labelled, conditional=True, guidance=2.0, sampler_steps=4, **warm)
    return {name: {"setting": setting} for name, setting in plain.items()} | {
        "bernoulli, nine policies": {"setting": bernoulli, "policy": nine},
        "kde, bandwidth by rule": {"setting": make(s.kde, bandwidth="scott", **few), "policy": grow},
        "kde, lineage": {"setting": make(s.kde, bandwidth=0.3, lineage=True, **few), "policy": twice},
        "discrete, lineage": {"setting": make(s.discrete, lineage=True), "policy": twice},
        "flow matching": {"setting": flow, "policy": grow},
        "diffusion": {"setting": diffusion, "policy": twice},
        "vae of images": {"setting": images, "policy": grow},
        "self-supervised": {"setting": encoder, "policy": once},
        "ecosystem": {"setting": make(s.ecosystem, generator=poisson, mixing=0.6), "policy": twice},
        "gaussian, curators": {"setting": gaussian, "policy": once, "curator": curators},
        "markov, edited": {"setting": markov, "policy": once, "curator": make(c.edit, fraction=0.3)},
        "gaussian, float64": {"setting": gaussian, "policy": once, "precision": "float64"},
        "kde, sweep": {"setting": s.kde, "axes": named(s.kde, {"bandwidth": [0.1, 0.3, 1.0]})},
        "gaussian, policy sweep": {"setting": gaussian, "policy": [p.weighted_fresh],
                                   "axes": named(p.weighted_fresh, {"weight": [0.1, 0.5]})},
        "gaussian, curator sweep": {"setting": gaussian, "policy": once, "curator": c.curate,
                                    "axes": named(c.curate, {"strength": [0.5, 2.0]})},
    }  # fmt: skip


def possible(backend: str, experiment: dict[str, Any], policy: Any) -> bool:
    """Ask whether a backend can run a pair, by making a chain, which computes nothing. By rows every pair must run."""
    from collapse_jax import make_chain

    curator = experiment.get("curator")
    parts = [experiment["setting"], policy, curator[0] if isinstance(curator, list) else curator]
    setting, policy, curator = (part() if inspect.isfunction(part) else part for part in parts)
    make_chain(setting, policy, curator=curator, backend="rows", **SIZES)
    try:
        make_chain(setting, policy, curator=curator, backend=backend, **SIZES)
    except ValueError:
        return False
    return True


def work(folder: Path, backwards: bool) -> None:
    """Run all experiments with the package of the tree at hand; write a file for each and each backend."""
    import collapse_jax as cj

    tree = Path(os.environ["PYTHONPATH"]).resolve()
    if Path(cj.__file__).resolve().parents[1] != tree:
        raise SystemExit(f"collapse_jax was imported from {cj.__file__}, not from {tree}")
    three = [cj.policies.replace(), cj.policies.accumulate(), cj.policies.accumulate_subsample()]
    cases = [(name, given, backend) for name, given in experiments().items() for backend in ("rows", "law")]
    for name, given, backend in reversed(cases) if backwards else cases:
        able = [policy for policy in given.get("policy", three) if possible(backend, given, policy)]
        if not able:
            continue
        runs = cj.sweep(**given | {"policy": able}, **SIZES, **CHAINS, backend=backend)
        entries = {str(metric): values.values for metric, values in runs.data_vars.items()}
        entries |= {f"{metric}:dims": np.array(values.dims) for metric, values in runs.data_vars.items()}
        entries |= {f"{dim}:labels": runs[dim].values.astype(str) for dim in runs.coords}
        np.savez(folder / f"{name}, {backend}.npz", **entries)


def difference(metric: str, old: np.ndarray, case: dict[str, np.ndarray]) -> tuple[float, str] | None:
    """Compare a metric with its old values: the largest difference and where it is, or None where all bits agree."""
    new = case[metric]
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return np.inf, f"{metric}: {old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}"
    bits = [np.ascontiguousarray(x).view(f"u{x.itemsize}") for x in (old, new)]
    same = (bits[0] == bits[1]) | (np.isnan(old) & np.isnan(new))
    if same.all():
        return None
    with np.errstate(invalid="ignore"):
        gap = np.abs(new.astype(float) - old.astype(float))
    gap = np.where(same, -1.0, np.where(np.isnan(gap), np.inf, gap))
    at = np.unravel_index(gap.argmax(), gap.shape)
    named_at = zip(case[f"{metric}:dims"], at, strict=True)
    where = [f"{dim} {case.get(f'{dim}:labels', range(i + 1))[i]}" for dim, i in named_at]
    return float(gap[at]), f"{metric} at {', '.join(where)}: {old[at]} became {new[at]}"


def name_now(name: str, after: Container[str]) -> str:
    """Name the metric of the working tree, among those in `after`, that was called `name`."""
    suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix))
    names = [new + suffix for new in METRICS.get(name.removesuffix(suffix), ())]
    return next((new for new in names if new in after), name)


def compare(old_file: Path, new_file: Path) -> tuple[int, str]:
    """Count the metrics of a case that both trees have, and say what differs: nothing where all is the same."""
    for file, where in ((old_file, "at the commit"), (new_file, "in the working tree")):
        if not file.exists():
            return 0, f"not run {where}"
    with np.load(old_file) as old, np.load(new_file) as new:
        after = dict(new)
        before = {name_now(name, after): old[name] for name in old.files if ":" not in name}
    both = [name for name in before if name in after]
    found = [gap for gap in (difference(name, before[name], after) for name in both) if gap is not None]
    words = [f"{len(found)} differ, most by {max(found)[0]:.3g} in {max(found)[1]}"] if found else []
    for name in sorted(before.keys() ^ {name for name in after if ":" not in name}):
        words.append(f"{name} is missing {'in the working tree' if name in before else 'at the commit'}")
    return len(both), "; ".join(words)


def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run git in the clone."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=check, capture_output=True, text=True)


@contextlib.contextmanager
def checked_out(commit: str, tree: Path) -> Iterator[None]:
    """Check a commit out into a temporary worktree, and remove that whatever happens."""
    try:
        git("worktree", "add", "--detach", str(tree), commit)
        yield
    finally:
        git("worktree", "remove", "--force", str(tree), check=False)


def run_trees(trees: dict[str, Path], folder: Path) -> str:
    """Run the worker for both trees at once, alike in all but the tree; what is said where one fails.

    They share the programs that one of them has compiled, so the second begins with the last experiment.
    """
    alike = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    alike |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONHASHSEED": "0"}  # fmt: skip
    running: dict[str, subprocess.Popen] = {}
    try:
        for name, tree in trees.items():
            (folder / name).mkdir()
            command = [sys.executable, "-P", str(Path(__file__).resolve()), "--worker", str(folder / name), name]
            with (folder / f"{name}.txt").open("w") as said:
                own = alike | {"PYTHONPATH": str(tree)}
                running[name] = subprocess.Popen(command, cwd=folder, env=own, stdout=said, stderr=said)
        failed = [name for name, process in running.items() if process.wait() != 0]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return "".join(f"The {name} tree fails:\n{(folder / f'{name}.txt').read_text()[-2000:]}" for name in failed)


def main() -> int:
    """Compare the working tree with the commit that the command line names; the exit status."""
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), backwards=sys.argv[3] == "new")
        return 0
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python tests/same_results.py COMMIT", file=sys.stderr)
        return 2
    commit = git("rev-parse", "--verify", "--quiet", f"{sys.argv[1]}^{{commit}}", check=False).stdout.strip()
    if not commit:
        print(f"{sys.argv[1]} is no commit of {ROOT}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that what is temporary is removed
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="same-results-") as name, checked_out(commit, Path(name) / "tree"):
        folder = Path(name)
        failures = run_trees({"old": folder / "tree", "new": ROOT}, folder)
        cases = sorted({file.name for run in ("old", "new") for file in (folder / run).iterdir()})
        found = {case: compare(folder / "old" / case, folder / "new" / case) for case in cases}
    for case, (count, words) in found.items():
        print(f"{case.removesuffix('.npz'):31}{count:3} metrics  {words or 'same'}")
    total, differ = sum(count for count, _ in found.values()), sum(bool(words) for _, words in found.values())
    seconds = time.perf_counter() - began
    print(f"{total} metrics of {len(cases)} cases; {differ} cases differ from {commit[:7]} ({seconds:.0f} s)")
    print(failures, end="")
    return int(differ > 0 or failures != "" or total == 0)


if __name__ == "__main__":
    sys.exit(main())
