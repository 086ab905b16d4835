import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from paring.profilers.timing import Latency
from paring.reports import origin
from paring.reports.card import as_text, card_of
from paring.reports.origin import legal_files, stated_by
from paring.search.study import Record
from paring.search.trial import Final

MakeFinal = Callable[..., Final]
HOSTILE = """<b>"modèl" & 'שלום' 😀 | *x* `y` [z](javascript:alert(1))\n---\n# no"""
STATED: dict[str, Any] = {
    "license": "other",
    "license_name": "my-licence: #1",
    "license_link": "LICENSE",
    "base_model": ["a/b", "c/d"],
    "language": ["en", "no"],
    "datasets": "sst2",
    "pipeline_tag": "text-classification",
}


@pytest.fixture
def settings(finished_run: Path) -> dict[str, Any]:
    return Record.open(finished_run).settings


def card(make_final: MakeFinal, settings: dict[str, Any], **given: Any) -> ModelCard:
    """As the hub reads it."""
    return ModelCard(card_of(make_final(1, bits=True, ratio=0.5), make_final(), "faster", settings, **given))


def test_what_the_original_states_stays(make_final: MakeFinal, settings: dict[str, Any]) -> None:
    found = card(make_final, settings, stated=STATED)
    data = found.data.to_dict()
    assert {name: data[name] for name in STATED} == STATED
    assert (data["library_name"], data["tags"], data["metrics"]) == ("paring", ["paring"], ["accuracy"])
    assert "Licence, as the original states: my-licence: #1. Base model: a/b, c/d." in found.text


def test_nothing_is_made_up_where_the_original_states_nothing(make_final: MakeFinal, settings: dict[str, Any]) -> None:
    found = card(make_final, settings)
    assert set(found.data.to_dict()) == {"library_name", "tags", "metrics"}
    assert "The original states no licence." in found.text and "Base model" not in found.text


def test_an_ordinary_folder_says_whose_library_loads_it(make_final: MakeFinal, settings: dict[str, Any]) -> None:
    plain = ModelCard(card_of(make_final(1), make_final(), "faster", settings))
    assert plain.data.library_name == "transformers"
    assert "plain `AutoModel...from_pretrained` loads it too" in plain.text
    settings["identity"]["runtime"] = "openvino"
    packed = card(make_final, settings, beside={"openvino_model.xml", "openvino_model.bin"}).text
    assert "Plain `from_pretrained` refuses it" in packed
    assert f"pip install paring=={settings['facts']['paring']}" in packed
    assert "The same model for openvino alone: `openvino_model.bin`, `openvino_model.xml`." in packed
    assert "The same model" not in plain.text


def test_names_from_outside_stay_text(make_final: MakeFinal, settings: dict[str, Any]) -> None:
    settings["sources"]["model"] = f"/somewhere/{HOSTILE}"
    settings["facts"]["machine"]["facts"]["name"] = HOSTILE
    stated = {"license": HOSTILE, "base_model": HOSTILE}
    found = card(make_final, settings, stated=stated)
    assert found.data.license == found.data.base_model == HOSTILE
    assert "<b>" not in found.text and "\n# no" not in found.text
    assert re.search(r"(?<!\\)[\[\]*|]", found.text.partition("\n\n")[0]) is None
    shown = "&lt;b&gt;\"modèl\" &amp; 'שלום' 😀 \\| \\*x\\* \\`y\\` \\[z\\](javascript:alert(1)) --- # no"
    assert as_text(HOSTILE) == shown
    assert f"\n# {as_text(HOSTILE)}, pared\n" in found.text


def test_intervals_stand_beside_the_numbers(make_final: MakeFinal, settings: dict[str, Any]) -> None:
    text = card(make_final, settings).text
    assert "| its interval | 0.8700 to 0.9200 | 0.8700 to 0.9200 |" in text
    assert "| latency, of the original's | 1 | 0.500 (0.490 to 0.510) |" in text


def test_the_card_says_the_times_of_tokens_where_they_were_measured(
    make_final: MakeFinal, settings: dict[str, Any]
) -> None:
    def writing(final: Final, first: float, further: float | None) -> Final:
        late = Latency((first,), 1.0, 1.0, 1.0)
        return replace(final, profile=replace(final.profile, first_token=late, seconds_per_token=further))

    base, own = writing(make_final(), 0.25, 0.002), writing(make_final(1), 0.125, None)
    text = card_of(own, base, "faster", settings)
    assert "| first token, ms | 250.00 | 125.00 |\n| every further token, ms | 2.00 | - |\n" in text
    assert "token, ms" not in card_of(make_final(1), make_final(), "faster", settings)


def model_with_card(folder: Path, head: str) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text(f"{head}# A model\n", encoding="utf8")
    return folder


def test_the_head_of_the_originals_card_is_read(tmp_path: Path) -> None:
    head = yaml.safe_dump({**STATED, "model-index": [{"name": "x"}], "widget": 3, "tags": ["a"]}, allow_unicode=True)
    assert stated_by(str(model_with_card(tmp_path / "m", f"---\n{head}---\n"))) == STATED


@pytest.mark.parametrize(
    "head", ["", "---\n---\n", "---\n[1, 2\n---\n", "---\n- a\n---\n", "---\nlicense: {a: 1}\n---\n"]
)
def test_a_card_that_says_nothing_legible(tmp_path: Path, head: str) -> None:
    assert stated_by(str(model_with_card(tmp_path / "m", head))) == {}
    assert stated_by(str(tmp_path)) == {}


def test_a_model_of_the_hub_is_the_base_of_its_smaller_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_with_card(tmp_path / "m", "---\nlicense: mit\nbase_model: older/one\n---\n") / "README.md"
    monkeypatch.setattr(origin, "hf_hub_download", lambda name, file: str(path))
    assert stated_by("owner/name") == {"license": "mit", "base_model": "owner/name"}

    def offline(name: str, file: str) -> str:
        raise OSError("there is no network")

    monkeypatch.setattr(origin, "hf_hub_download", offline)
    assert stated_by("owner/name") == {"base_model": "owner/name"}
    assert legal_files("owner/name") == []


def test_texts_of_licences_are_found(tmp_path: Path) -> None:
    for name in ("LICENSE", "NOTICE.txt", "licence.md", "README.md", "config.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "COPYING").mkdir()
    assert {path.name for path in legal_files(str(tmp_path))} == {"LICENSE", "NOTICE.txt", "licence.md"}
