import optuna
import pytest

from paring.errors import SettingError
from paring.search.samplers import NAMES, sampler

PROPOSALS = 45  # beyond the random start of TPE and the first two populations of NSGA-II
KINDS = ("float", "int8", "int4")


def proposals(name: str, seed: int) -> list[tuple[int, str, str]]:
    """What a sampler proposes in a fresh study with two objectives and a limit; some trials fail, some break it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(name, seed=seed))
    found = []
    for number in range(PROPOSALS):
        trial = study.ask()
        depth = trial.suggest_int("depth", 0, 5)
        first, second = (trial.suggest_categorical(kind, KINDS) for kind in ("bits.a", "bits.b"))
        found.append((depth, first, second))
        if number % 7 == 3:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_constraint("size", 3.0 - depth)
            study.tell(trial, [float(depth), float(KINDS.index(first) - depth)])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_contract_same_seed_same_legal_proposals(name: str) -> None:
    first = proposals(name, seed=3)
    assert first == proposals(name, seed=3)
    assert first != proposals(name, seed=4)
    assert len({*first}) > PROPOSALS // 4
    for depth, *kinds in first:
        assert type(depth) is int
        assert 0 <= depth <= 5
        assert set(kinds) <= set(KINDS)


def test_unknown_name() -> None:
    with pytest.raises(SettingError, match=r"unknown sampler 'nsga'.*nsga2, random, tpe.*Did you mean 'nsga2'"):
        sampler("nsga", seed=0)
