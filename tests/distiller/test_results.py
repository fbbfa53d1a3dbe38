"""`dd_plugin.distiller.results`: what `Distiller.compare` returns prints as its table."""

import copy
import pickle

from dd_plugin.distiller.report import results_table
from dd_plugin.distiller.results import Results
from dd_plugin.evaluation import Scores
from tests.distiller.toy import toy_config, toy_distiller

SCORES = {"distilled": Scores((0.5, 0.7)), "full data": Scores((0.9,))}


def test_results_are_a_mapping_that_prints_as_a_table(tmp_path):
    config = toy_config(tmp_path)
    results = Results(SCORES, config, 3)
    assert results == SCORES
    assert dict(results.items()) == SCORES
    assert str(results) == results._repr_markdown_() == results_table(SCORES, 3, config)
    assert "| distilled images | 3 " in str(results)
    assert "60.0 ± 14.1 %" in str(results)


def test_more_rows_and_copies_print_as_well(tmp_path):
    results = Results({"distilled": Scores((0.5,))}, toy_config(tmp_path), 3)
    results |= {"full data": Scores((0.9,))}
    assert "| all real images" in str(results)
    for copied in (copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert copied == results
        assert str(copied) == str(results)


def test_the_comparison_of_a_run_prints_as_what_it_writes(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1)
    distiller.train()
    results = distiller.compare()
    assert list(results) == ["distilled"]
    distiller.save_model()
    assert (tmp_path / "results.md").read_text() == f"{results}\n"
