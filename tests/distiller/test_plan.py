"""`dd_plugin.distiller.plan`: what a run is going to do, and what would shorten it."""

import pytest

from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.distiller.measuring import Measured
from dd_plugin.distiller.plan import Plan, duration, is_worth_measuring
from tests.distiller.toy import head_distiller, toy_config, toy_dataset, toy_distiller

# Seconds: of a step, of ordinary training and each image of it, of a test of an image.
MEASURED = Measured(step=2.0, training=0.5, per_image=0.125, testing=0.25)


def plan_of(distiller, measured=MEASURED):
    return Plan(
        distiller._run,
        distiller._train_state,
        distiller.eval_data,
        distiller.eval_split,
        measured,
    )


def facts_of(plan):
    return dict(line.split("  ", 1) for line in plan.lines())


def test_the_times_are_measured_ones_times_counts(tmp_path):
    distiller = toy_distiller(
        tmp_path, max_steps=10, eval_steps=4, eval_networks=2, final_eval_networks=5, baselines=True
    )
    times = plan_of(distiller).times
    assert times.run == 10 * 2.0
    # Three inner steps on three images, and thirty images to test on.
    distilled = 3 * (0.5 + 3 * 0.125) + 30 * 0.25
    assert times.evaluations == 2 * 2 * distilled
    assert times.distilled == 5 * distilled
    # 200 steps each: on three images, and on sixty.
    few, full = 200 * (0.5 + 3 * 0.125), 200 * (0.5 + 60 * 0.125)
    assert times.baselines == 5 * (few + full + 2 * 30 * 0.25)
    assert times.total == times.run + times.evaluations + times.comparison


def test_a_plan_says_one_fact_in_a_line(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    config = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"), max_steps=100)
    plan = plan_of(Distiller(config=config))
    facts = {name: text.strip() for name, text in facts_of(plan).items()}
    assert facts["data"].startswith("48 images of ")
    assert facts["data"].endswith(" in 3 classes")
    assert facts["per class"] == "16"
    assert facts["tested on"] == (
        "12 images: about 20 % of each class, held out by `seed`, never trained on"
    )
    assert facts["resolution"] == "8 x 8, gray, as they are"
    assert "width 4, depth 2, norm_layer batchnorm2d" in facts["network"]
    assert facts["learned"] == "3 images, 1 per class"
    assert facts["steps"] == "100 of 3 inner steps"
    assert facts["a step"] == "2.0 s, as measured"
    assert facts["the run"] == "3.3 minutes"
    assert "trajectory" in facts["memory"]


def test_a_plan_says_what_the_data_decided(tmp_path, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.defaults.BUDGET", 3e7)
    left_alone = {
        name: getattr(DistillerConfig(), name)
        for name in ("inner_steps", "final_eval_networks", "eval_networks", "baselines", "batching")
    }
    config = toy_config(tmp_path, max_steps=5, images_per_class=40, **left_alone)
    many = Distiller(None, config, toy_dataset(150), toy_dataset(30, seed=1))
    facts = {name: text.strip() for name, text in facts_of(plan_of(many)).items()}
    assert facts["by the data"] == "`inner_steps` 5, `batching` groups, `groups` 2"
    assert facts["to evaluate"] == (
        "`eval_networks` 1, `final_eval_networks` 1, `baselines` random_real, by the data too"
    )
    assert not {"by the data", "to evaluate"} & set(facts_of(plan_of(toy_distiller(tmp_path))))


def test_only_the_baselines_of_the_run_take_time(tmp_path):
    def seconds(*names):
        distiller = toy_distiller(tmp_path, final_eval_networks=2, baselines=list(names))
        return plan_of(distiller).times.baselines

    few, full = seconds("random_real"), seconds("full_data")
    assert 0 < few < full
    assert seconds("random_real", "full_data") == seconds("auto") == few + full
    assert seconds("centroid", "herding") == 2 * few
    assert seconds("none") == 0
    # Networks that say how hard images are, are trained once for both.
    easy = seconds("easiest")
    assert few < easy
    assert seconds("easiest", "hardest") == pytest.approx(easy + few)
    assert seconds("hard_labels") == 0  # there are no learned labels


def test_labels_are_told_apart_in_the_time_of_the_set(tmp_path):
    names = ["hard_labels", "learned_labels_on_random"]
    distiller = toy_distiller(
        tmp_path, final_eval_networks=2, baselines=names, soft_labels=True, init="random"
    )
    times = plan_of(distiller).times
    assert times.baselines == pytest.approx(2 * times.distilled)


def test_without_times_the_plan_has_none(tmp_path):
    plan = plan_of(toy_distiller(tmp_path), None)
    assert plan.times is None
    assert plan.advice() == []
    assert not {"a step", "the run", "in all"} & set(facts_of(plan))


def test_a_long_run_is_told_what_shortens_it_and_by_how_much(tmp_path):
    assert plan_of(toy_distiller(tmp_path, max_steps=100)).advice() == []
    long = toy_distiller(tmp_path, max_steps=3000, final_eval_networks=5, baselines=True)
    advice = plan_of(long).advice()
    # The baselines take 8,950 s, the distilled images 51 s; 300 steps take ten minutes.
    assert advice == [
        "`baselines` false saves 2.5 hours",
        "`final_eval_networks` 1 saves 2.0 hours",
        "`max_steps` 300 saves 90 minutes",
    ]
    often = toy_distiller(tmp_path, max_steps=400, eval_steps=1, eval_networks=10)
    assert plan_of(often).advice()[0].startswith("`eval_networks` 1 saves")


@pytest.mark.parametrize(
    ("has", "settings", "is_told"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"mixed_precision": "bf16"}, False),
        (True, {"dtype": "float64"}, False),
        (True, {"max_steps": 100}, False),
    ],
)
def test_half_precision_is_an_advice_where_the_processor_has_it(
    tmp_path, monkeypatch, has, settings, is_told
):
    monkeypatch.setattr("dd_plugin.distiller.plan.has_bfloat16", lambda _: has)
    settings = {"max_steps": 3000, "dtype": "float32", **settings}
    advice = plan_of(toy_distiller(tmp_path, **settings)).advice()
    assert any("bf16" in text for text in advice) == is_told


def test_what_an_advice_saves_is_what_the_other_plan_takes_less(tmp_path):
    options = {"max_steps": 3000, "final_eval_networks": 5, "baselines": True}
    times = plan_of(toy_distiller(tmp_path, **options)).times
    for change in ({"max_steps": 300}, {"baselines": False}, {"final_eval_networks": 1}):
        other = plan_of(toy_distiller(tmp_path, **{**options, **change})).times
        ((name, value),) = change.items()
        text = f"`{name}` {str(value).lower()} saves {duration(times.total - other.total)}"
        assert text in plan_of(toy_distiller(tmp_path, **options)).advice()


def test_a_run_for_heads_passes_the_images_through_frozen_networks(tmp_path):
    plan = plan_of(head_distiller(tmp_path))
    # 60 images to distill and 60 to test on.
    assert plan.times.features == 120 * 0.25
    facts = facts_of(plan)
    assert facts["features"].strip() == "30 s, once"
    assert facts["trained"].strip() == "the head, ridge"
    assert facts["steps"].strip() == "4"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0001, "1 ms"),
        (0.337, "337 ms"),
        (9.94, "9.9 s"),
        (99, "99 s"),
        (100, "1.7 minutes"),
        (5000, "83 minutes"),
        (9000, "2.5 hours"),
        (4e6, "1,111 hours"),
    ],
)
def test_times_have_two_digits(seconds, text):
    assert duration(seconds) == text


def test_short_runs_are_not_measured(tmp_path):
    assert not is_worth_measuring(toy_config(tmp_path, max_steps=49))
    assert is_worth_measuring(toy_config(tmp_path, max_steps=50))
