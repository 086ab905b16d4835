"""Two-factor forms: closed forms against torch's SVD, what each method is best at, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from paring.errors import PlanError, SettingError
from paring.spaces.error_metrics import Metric, harms, metric_of, metric_of_words
from paring.spaces.factorising import TWO_FACTOR_METHODS, factorise, factorise_words
from paring.spaces.seen import Seen, WordsSeen

SHAPES = [(30, 20), (20, 30)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen(outputs: int, inputs: int, *, tokens: int = 400, seed: int = 0) -> Seen:
    """Correlated inputs with a mean, gradients of very different sizes, and weights of tokens that differ."""
    rows = (normal(tokens, inputs, seed=seed) @ normal(inputs, inputs, seed=seed + 1)).double() + 2
    pulls = normal(tokens, outputs, seed=seed + 2).double() * torch.logspace(-2, 0, outputs, dtype=torch.float64)
    return Seen(
        answers=torch.tensor(tokens // 5).double(),
        count=torch.tensor(tokens).double(),
        total=rows.sum(0),
        moment=rows.T @ rows,
        gradient=pulls.T @ pulls,
        fisher=pulls.square().sum(0),
    )


def weights_and_seen(count: int, outputs: int, inputs: int) -> tuple[list[Tensor], list[Seen]]:
    return [normal(outputs, inputs, seed=10 + number) for number in range(count)], [
        seen(outputs, inputs, seed=20 + 3 * number) for number in range(count)
    ]


def output_error(metrics: list[Metric], weights: list[Tensor], dense: tuple[Tensor, ...]) -> float:
    return sum(metric.error(one - other) for metric, one, other in zip(metrics, weights, dense, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_svd_is_the_truncated_svd_of_the_stack(shape: tuple[int, int], count: int) -> None:
    weights, _ = weights_and_seen(count, *shape)
    found = factorise("svd", weights, 7)
    left, values, right = torch.linalg.svd(torch.cat(weights).double(), full_matrices=False)
    nearest = (left[:, :7] * values[:7]) @ right[:7]
    assert torch.allclose(torch.cat(found.dense()).double(), nearest, atol=1e-5)
    assert found.right.shape == (7, shape[1]) and {left.shape for left in found.lefts} == {(shape[0], 7)}
    assert found.bias_changes == (None,) * count


@pytest.mark.parametrize("method", TWO_FACTOR_METHODS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_full_rank_gives_the_weights_back(method: str, shape: tuple[int, int], count: int) -> None:
    weights, shown = weights_and_seen(count, *shape)
    found = factorise(method, weights, min(count * shape[0], shape[1]), shown)
    for weight, dense, change in zip(weights, found.dense(), found.bias_changes, strict=True):
        assert torch.allclose(dense, weight, atol=2e-4)
        assert change is None or float(change.abs().max()) < 2e-3


@pytest.mark.parametrize("count", [1, 3])
def test_a_linear_autoencoder_with_the_loss_of_the_answers_converges_to_the_closed_form(count: int) -> None:
    """One encoder and decoder for all weights, trained from a random start: never below it, and hardly above."""
    weights, shown = weights_and_seen(count, 24, 20)
    # One metric of inputs, so that one encoder can be the best for every weight.
    shown = [replace(own, moment=shown[0].moment, total=shown[0].total) for own in shown]
    metrics = [metric_of("sensitivity", own, centred=True) for own in shown]
    least = output_error(metrics, weights, factorise("sensitivity", weights, 6, shown).dense())
    root = torch.linalg.cholesky(metrics[0].inputs)
    turned = torch.stack([metric.turned(weight, root) for weight, metric in zip(weights, metrics, strict=True)])
    encoder, decoder = (0.1 * normal(20, 6, seed=seed).double() for seed in (1, 2))
    with torch.enable_grad():
        encoder, decoder = encoder.requires_grad_(), decoder.requires_grad_()
        optimizer = torch.optim.LBFGS([encoder, decoder], max_iter=500, line_search_fn="strong_wolfe")
        scale = float(turned.square().sum())

        def loss() -> Tensor:
            optimizer.zero_grad()
            found = (turned - turned @ encoder @ decoder.t()).square().sum() / scale
            found.backward()  # type: ignore[no-untyped-call]
            return found

        optimizer.step(loss)
        trained = scale * float(loss().detach())
    assert least * (1 - 1e-6) <= trained <= 1.01 * least


@pytest.mark.parametrize("count", [1, 3])
def test_each_method_errs_least_by_its_own_measure(count: int) -> None:
    weights, shown = weights_and_seen(count, 24, 20)
    found = {method: factorise(method, weights, 6, shown).dense() for method in TWO_FACTOR_METHODS}
    errors = {
        judge: {
            method: output_error([metric_of(judge, own, centred=True) for own in shown], weights, dense)
            for method, dense in found.items()
        }
        for judge in ("activation", "sensitivity")
    }
    errors["svd"] = {
        method: float((torch.cat(weights) - torch.cat(dense)).square().sum()) for method, dense in found.items()
    }
    for judge, by_method in errors.items():
        assert min(by_method, key=by_method.__getitem__) == judge
    assert errors["activation"]["activation"] < 0.8 * errors["activation"]["svd"]


def test_the_bias_takes_up_what_the_mean_input_loses() -> None:
    weights, shown = weights_and_seen(1, 24, 20)
    found = factorise("activation", weights, 6, shown)
    mean = shown[0].mean.float()
    (change,), (dense,) = found.bias_changes, found.dense()
    assert change is not None
    assert torch.allclose(dense @ mean + change, weights[0] @ mean, atol=1e-4)
    assert factorise("activation", weights, 6, shown, move_bias=False).bias_changes == (None,)


def test_without_a_bias_the_mean_input_counts_as_any_other() -> None:
    weights, shown = weights_and_seen(1, 24, 20)
    metrics = [metric_of("activation", shown[0], centred=False)]
    errors = [
        output_error(metrics, weights, factorise("activation", weights, 6, shown, move_bias=moved).dense())
        for moved in (False, True)
    ]
    assert errors[0] < errors[1]


def test_turns_of_lefts_and_right_get_below_the_shared_start() -> None:
    """Layers whose inputs differ: the right factor of their mean moment is not the best."""
    weights, shown = weights_and_seen(3, 24, 20)
    metrics = [metric_of("activation", own, centred=True) for own in shown]
    together = output_error(metrics, weights, factorise("activation", weights, 6, shown).dense())
    mean = sum((metric.inputs for metric in metrics[1:]), metrics[0].inputs) / 3
    alike = replace(shown[0], moment=mean * 400, total=torch.zeros(20).double(), count=torch.tensor(400.0).double())
    start = factorise("activation", weights, 6, [alike] * 3).right.double()
    lefts = [
        weight.double() @ m.inputs @ start.T @ torch.linalg.inv(start @ m.inputs @ start.T)
        for weight, m in zip(weights, metrics, strict=True)
    ]
    assert together < 0.97 * output_error(metrics, weights, tuple(left @ start for left in lefts))


def test_turns_end_in_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken far enough, no small change of the shared right helps: the gradient of the error is nought."""
    monkeypatch.setattr("paring.spaces.factorising._ROUNDS", 400)
    monkeypatch.setattr("paring.spaces.factorising._STOP", 0.0)
    weights, shown = weights_and_seen(2, 24, 20)
    found = factorise("sensitivity", weights, 6, shown)
    metrics = [metric_of("sensitivity", own, centred=True) for own in shown]
    right = found.right.double().requires_grad_()
    error = torch.zeros((), dtype=torch.float64)
    for weight, left, metric in zip(weights, found.lefts, metrics, strict=True):
        change = weight.double() - left.double() @ right
        error = error + (metric.outputs @ change @ metric.inputs * change).sum()
    error.backward()
    assert right.grad is not None
    assert float(right.grad.norm() * right.detach().norm()) < 0.01 * error.item()


@pytest.mark.parametrize("method", TWO_FACTOR_METHODS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2])
def test_weights_of_a_lower_rank_come_back_whole(method: str, shape: tuple[int, int], count: int) -> None:
    """Such as those of a model that was factorised before."""
    _, shown = weights_and_seen(count, *shape)
    right = normal(3, shape[1], seed=5)
    weights = [normal(shape[0], 3, seed=number) @ right for number in range(count)]
    for weight, dense in zip(weights, factorise(method, weights, 8, shown).dense(), strict=True):
        assert torch.allclose(dense, weight, atol=1e-3)


@pytest.mark.parametrize("method", ["activation", "sensitivity"])
def test_inputs_never_seen_leave_finite_factors(method: str) -> None:
    weights, (shown,) = weights_and_seen(1, 24, 20)
    nothing = Seen(*(getattr(shown, name) * 0 for name in Seen.__slots__))
    found = factorise(
        method, weights, 6, [replace(nothing, count=torch.ones(()).double(), answers=torch.ones(()).double())]
    )
    assert torch.isfinite(found.dense()[0]).all()


def test_rows_no_answer_depends_on_are_kept_all_the_same() -> None:
    weights, (shown,) = weights_and_seen(1, 24, 20)
    fisher = shown.fisher.clone()
    fisher[3] = 0
    assert torch.isfinite(factorise("fisher", weights, 6, [replace(shown, fisher=fisher)]).dense()[0]).all()


def test_unit_svd_keeps_the_length_of_every_row() -> None:
    weights, _ = weights_and_seen(2, 24, 20)
    for weight, dense in zip(weights, factorise("unit_svd", weights, 5).dense(), strict=True):
        assert torch.allclose(dense.norm(dim=1), weight.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 21])
def test_ranks_beyond_the_smaller_side_are_refused_before_any_solver_runs(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, shown = weights_and_seen(2, 24, 20)
    for solver in ("eigh", "cholesky", "svd"):
        monkeypatch.delattr(torch.linalg, solver)
    for method in TWO_FACTOR_METHODS:
        with pytest.raises(SettingError, match="from 1 to 20"):
            factorise(method, weights, rank, shown)


def test_what_does_not_fit_is_refused() -> None:
    weights, shown = weights_and_seen(2, 24, 20)
    with pytest.raises(SettingError, match="calibration shows of each of the 2 weights, got it of 1"):
        factorise("activation", weights, 4, shown[:1])
    with pytest.raises(SettingError, match="Did you mean 'svd'"):
        factorise("svdd", weights, 4)
    with pytest.raises(PlanError, match="equal width"):
        factorise("svd", [weights[0], weights[1].T], 4)
    with pytest.raises(PlanError, match="equal width"):
        factorise("svd", [], 4)
    weights[0][0, 0] = float("nan")
    with pytest.raises(PlanError, match="finite"):
        factorise("svd", weights, 4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["activation", "sensitivity"])
def test_harms_are_the_errors_of_the_best_products(method: str, shape: tuple[int, int]) -> None:
    (weight,), (shown,) = weights_and_seen(1, *shape)
    metric = metric_of(method, shown, centred=True)
    found = harms(weight, metric)
    assert len(found) == 21 and float(found[-1]) < 1e-9 * float(found[0])
    assert float(found[0]) == pytest.approx(metric.error(weight), rel=1e-6)
    for rank in (1, 7, 19):
        (dense,) = factorise(method, [weight], rank, [shown]).dense()
        assert float(found[rank]) == pytest.approx(metric.error(weight - dense), rel=1e-3)


def test_harms_predict_the_change_of_answers_that_random_errors_lead_to() -> None:
    """The spread of a metric takes from some directions what it gives to others: their sum stays."""
    _, (shown,) = weights_and_seen(1, 24, 20)
    error = 0.01 * normal(24, 20, seed=77).double()
    flat = torch.eye(20, dtype=torch.float64) * 400
    alike = replace(shown, moment=flat, total=torch.zeros(20).double(), gradient=torch.eye(24).double() * 3)
    predicted = metric_of("sensitivity", alike, centred=True).error(error)
    assert predicted == pytest.approx(3 / 80 * float(error.square().sum()), rel=1e-6)


def test_a_table_of_words_errs_least_where_words_are_frequent_and_answers_mind() -> None:
    table, counts = normal(60, 12), torch.arange(60).double() % 7
    pulls = normal(200, 12, seed=3).double() * torch.logspace(-2, 0, 12, dtype=torch.float64)
    metric = metric_of_words(WordsSeen(torch.tensor(50.0).double(), counts, pulls.T @ pulls))
    found, plain = factorise_words(table, 4, metric), factorise("svd", [table], 4)
    assert metric.error(table - found.dense()[0]) < 0.7 * metric.error(table - plain.dense()[0])
    assert float(harms(table, metric)[4]) == pytest.approx(metric.error(table - found.dense()[0]), rel=1e-4)
    assert torch.allclose(factorise_words(table, 12, metric).dense()[0], table, atol=1e-4)
    with pytest.raises(SettingError, match="from 1 to 12"):
        factorise_words(table, 13, metric)


def test_a_diagonal_metric_of_outputs_is_that_matrix() -> None:
    weight, other = normal(6, 5), normal(6, 5, seed=1).double()
    inputs, importance = torch.eye(5).double() + 0.5, torch.rand(6, generator=torch.Generator().manual_seed(0)).double()
    short, whole = Metric(inputs, importance), Metric(inputs, torch.diag(importance))
    assert short.error(weight) == pytest.approx(whole.error(weight))
    assert torch.allclose(short.weigh(other), whole.weigh(other))
    assert torch.allclose(harms(weight, short), harms(weight, whole))
